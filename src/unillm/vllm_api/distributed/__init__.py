# SPDX-License-Identifier: Apache-2.0

"""``vllm.distributed``: the calls with which programs end an engine."""

from __future__ import annotations

from .parallel_state import cleanup_dist_env_and_memory

__all__ = ["cleanup_dist_env_and_memory"]
