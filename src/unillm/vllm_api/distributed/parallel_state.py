# SPDX-License-Identifier: Apache-2.0

"""``vllm.distributed.parallel_state``: the calls with which programs end an engine.

An engine of unillm ends when its `LLM` is closed or collected, so they only collect.
"""

from __future__ import annotations

import gc


def cleanup_dist_env_and_memory(
    shutdown_ray: bool = False,  # noqa: ARG001 - vLLM's signature
) -> None:
    """Collect what the program has dropped, and give unused GPU memory back."""
    gc.collect()
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def destroy_model_parallel() -> None:
    """Do nothing: the process has no groups of workers."""


def destroy_distributed_environment() -> None:
    """Do nothing: the process has no groups of workers."""
