# SPDX-License-Identifier: Apache-2.0

"""Steps that call the model as it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from .. import flash
from ..cache import DecodeStep, SlotCache, Step
from ..masks import Mask, Masks
from .runner import StepRunner


class EagerRunner(StepRunner):
    """Calls the model as it is.

    Args:
        model: A decoder.
        cache: Its cache.
        masks: Its masks.
        in_spans: Attend by spans wherever the model can. Otherwise where that is faster
            without compiled layers.
    """

    def __init__(
        self, model: Any, cache: SlotCache, masks: Masks, *, in_spans: bool = False
    ) -> None:
        self._model = model
        self._cache = cache
        self._masks = masks
        self._in_spans = in_spans

    @override
    def run(self, fed: Tensor, *, seen: int) -> Tensor:
        ids, positions, places = fed
        seen = self._masks.seen(seen)
        pays = self._in_spans or flash.pays(len(ids), seen)
        by_spans = self._masks.by_spans and pays
        if by_spans:
            mask: Mask = flash.spans_of_rows(positions, row_size=self._cache.row_size)
        else:
            mask = self._masks.for_cached(positions[:, None], seen)
        return forward(
            self._model,
            self._cache,
            DecodeStep(self._cache, places, seen=seen, by_spans=by_spans),
            ids=ids[:, None],
            positions=positions[:, None],
            mask=mask,
        )


def forward(
    model: Any,
    cache: SlotCache,
    step: Step,
    *,
    ids: Tensor,
    positions: Tensor,
    mask: Mask,
) -> Tensor:
    """Run a model over its cache.

    Args:
        model: A decoder.
        cache: Its cache.
        step: Where the tokens are written, and what they see.
        ids: ``[rows, tokens]``, int64.
        positions: Positions of the tokens in their rows; shape and type of *ids*.
        mask: One of `Masks`.

    Returns:
        ``[rows, vocab]``: the last logits that the output layer gives for each row.
    """
    cache.begin(step)
    output = model(
        input_ids=ids,
        position_ids=positions,
        attention_mask=mask,
        use_cache=True,
        **{cache.argument: cache},
    )
    cache.end()
    logits: Tensor = output.logits
    return logits[:, -1]


@contextmanager
def only_positions(head: torch.nn.Module, wanted: Tensor) -> Iterator[None]:
    """Have the output layer compute *wanted* alone: ``[n, 2]``, rows and positions.

    ``logits_to_keep`` takes the same positions of every row, which are far too many
    logits when prompts of different lengths share a pass. The layer's output is
    ``[n, 1, vocab]``.
    """

    def select(_: torch.nn.Module, inputs: tuple[Tensor]) -> Tensor:
        rows, positions = wanted.view(-1, 2).unbind(1)
        return inputs[0][rows, positions][:, None]

    hook = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        hook.remove()
