# SPDX-License-Identifier: Apache-2.0

"""``vllm.lora.request``."""

from __future__ import annotations

from ...lora import LoRARequest

__all__ = ["LoRARequest"]
