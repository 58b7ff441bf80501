# SPDX-License-Identifier: Apache-2.0

"""Which decode steps torch compiles on a CPU, and the function that it compiles.

All rows of a step are compiled as one graph with fixed shapes. Attention reads the
positions that a row has (`ranges`), so new lengths compile nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..cache import DecodeStep, SlotCache
from ..families import family_of
from ..masks import Masks
from ..ranges import Kernel
from .eager import forward

Compiled = Callable[[Tensor], Tensor]
"""Takes what `StepRunner.run` is fed, for one number of rows, and returns logits."""

OPTIONS: Mapping[str, Any] = {
    # Checking the shape of each tensor takes a tenth of a step of a 0.65M Llama.
    "size_asserts": False,
    "alignment_asserts": False,
    # Threads share a loop from so many numbers for each of them on; torch's 512 has
    # them wait for each other fifty times in a step of six layers. Alone a step of a
    # 10M Llama takes 3.2 ms instead of 3.8, beside a busy process 3.3 instead of 7.6.
    "cpp.min_chunk_size": 2**16,
}
"""Options of torch's compiler."""

_MANY_ROWS = 8
"""Up to here a step costs nearly the same, so one graph serves all of them."""


def rows_of_graph(count: int, num_rows: int) -> int:
    """Return the number of rows of the graph that serves *count* of *num_rows* rows."""
    rows = _MANY_ROWS
    while rows < count:
        rows *= 2
    return min(rows, num_rows)


def refusal(model: Any) -> str | None:
    """Return why the steps of a model are not compiled; `None` if they are."""
    config = model.config.get_text_config(decoder=True)
    family = family_of(config)
    if family.own_attention:
        return f"{config.model_type!r} attends by code of its own"
    if family.sinks:
        return f"{config.model_type!r} has attention sinks"
    if not family.compiles:
        return f"torch does not compile the attention of {config.model_type!r}"
    return None


def step_of(model: Any, cache: SlotCache, masks: Masks) -> Compiled:
    """Return the decode step of all rows that it is fed, to be compiled."""

    def step(fed: Tensor) -> Tensor:
        ids, positions, places = fed
        logits = forward(
            model,
            cache,
            DecodeStep(cache, places, seen=cache.capacity),
            ids=ids[:, None],
            positions=positions[:, None],
            mask=masks.in_ranges(torch.arange(len(positions)), positions),
        )
        cache.step = None  # otherwise it would become an output of the graph
        return logits

    return step


def kernel_of(model: Any, cache: SlotCache) -> Kernel:
    """Return the kernel by which the compiled steps of a model attend."""
    config = model.config.get_text_config(decoder=True)
    shape = cache.shape
    return Kernel(
        cache.tensors[0].dtype,
        group=config.num_attention_heads // shape.kv_heads,
        dim=shape.head_dim,
        value_dim=shape.value_dim,
    )
