# SPDX-License-Identifier: Apache-2.0

"""Seeded requests on vLLM's CPU build, whose random generators are those of torch.

Two facts of vLLM 0.32 on a CPU, which the random run of the contract found:

- vLLM samples for a prompt that is not whole yet, and rewinds the request's generator
  by an offset. A generator on a CPU has none, and the engine died.
- A generator on a CPU takes the lowest 32 bits of a seed, so seeds shared their tokens.

CUDA's generators have both.
"""

from __future__ import annotations

import zlib
from typing import Any

_MENDED = "_unillm_set_aside"


def on_cpu() -> bool:
    """Return whether vLLM computes on the CPU."""
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


def seed_for_cpu(seed: int) -> int:
    """Return 32 bits that depend on all 64; a seed of 32 bits stays as it is."""
    if 0 <= seed < 2**32:
        return seed
    return zlib.crc32((seed % 2**64).to_bytes(8, "little"))


def keep_generators_of_partial_prompts() -> None:
    """Draw for partial prompts, whose tokens vLLM drops, without their generators."""
    if not on_cpu():
        return
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    if hasattr(GPUModelRunner, _MENDED):
        return
    sample, settle = GPUModelRunner._sample, GPUModelRunner._bookkeeping_sync  # noqa: SLF001

    def sample_without(self: Any, *args: Any, **named: Any) -> Any:
        batch = self.input_batch
        partial = self.discard_request_mask.np[: batch.num_reqs].nonzero()[0].tolist()
        aside = {row: batch.generators.pop(row, None) for row in partial}
        setattr(self, _MENDED, {row: each for row, each in aside.items() if each})
        return sample(self, *args, **named)

    def settle_and_give_back(self: Any, *args: Any, **named: Any) -> Any:
        try:
            return settle(self, *args, **named)
        finally:
            self.input_batch.generators.update(getattr(self, _MENDED))

    setattr(GPUModelRunner, _MENDED, {})
    GPUModelRunner._sample = sample_without  # noqa: SLF001
    GPUModelRunner._bookkeeping_sync = settle_and_give_back  # noqa: SLF001
