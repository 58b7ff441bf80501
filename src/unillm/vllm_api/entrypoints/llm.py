# SPDX-License-Identifier: Apache-2.0

"""``vllm.entrypoints.llm``."""

from __future__ import annotations

from ..llm import LLM

__all__ = ["LLM"]
