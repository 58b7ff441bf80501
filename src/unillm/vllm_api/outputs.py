# SPDX-License-Identifier: Apache-2.0

"""``vllm.outputs``."""

from __future__ import annotations

from ..outputs import CompletionOutput, RequestMetrics, RequestOutput

__all__ = ["CompletionOutput", "RequestMetrics", "RequestOutput"]
