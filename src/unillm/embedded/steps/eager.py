# SPDX-License-Identifier: Apache-2.0

"""How one decode step is computed: the seam between an engine's rows and its device.

The engine knows rows, lengths and requests. A `DecodeRunner` knows none of them: it
feeds the leading rows of the cache one token each and returns logits. One is chosen
when the engine is made.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from ..cache import DecodeStep, SlotCache, Step
from ..masks import Mask, Masks
from ..states import cache_argument


class DecodeRunner(abc.ABC):
    """Computes decode steps of one model over one cache.

    Called from one thread, in inference mode. Prefills of the same cache come between
    the calls, and rows are cleared and moved in it; its tensors stay where they are.
    """

    def rows_for(self, count: int) -> int:
        """Return how many leading rows a step computes that needs *count* of them.

        At least *count* and at most all. A runner that prepares for a few numbers of
        rows alone rounds up here; the engine gives harmless tokens to the others.
        """
        return count

    best: Tensor | None = None
    """``[2, rows]``, float64: the highest of each row of the logits that were returned
    last, and its id; `None` from a runner that leaves that to the sampler."""

    def tokens_for(self, count: int) -> int | None:
        """Return how many tokens `write_prompts` computes for *count* of them.

        `None` where it does not take so many: the engine computes such prompts itself.
        """
        del count
        return None

    def write_prompts(
        self, rows: Sequence[int], prompts: Sequence[Sequence[int]]
    ) -> Tensor:
        """Compute fresh prompts in one pass, each into a row that is clear.

        Args:
            rows: One for each prompt.
            prompts: Their ids, for whose number `tokens_for` gives one.

        Returns:
            ``[prompts, vocab]``: logits of their last tokens. Valid until the next
            call.
        """
        raise NotImplementedError

    @abc.abstractmethod
    def run(self, ids: Tensor, positions: Tensor, *, seen: int) -> Tensor:
        """Feed the leading rows one token each.

        Args:
            ids: ``[rows]``, int64, on the device.
            positions: ``[rows]``, int64, on the device: where each token stands in its
                row. Its keys and values are written there.
            seen: Positions from the start of a row that attention has to read: one more
                than the largest of *positions* that matters. It may read more of them,
                under the mask.

        Returns:
            ``[rows, vocab]``. Valid until the next call.
        """


class EagerRunner(DecodeRunner):
    """Calls the model as it is."""

    def __init__(self, model: Any, cache: SlotCache, masks: Masks) -> None:
        self._model = model
        self._cache = cache
        self._masks = masks

    @override
    def run(self, ids: Tensor, positions: Tensor, *, seen: int) -> Tensor:
        seen = self._masks.seen(seen)
        step = DecodeStep(
            positions,
            seen=seen,
            kv_heads=self._cache.shape.kv_heads,
            capacity=self._cache.capacity,
        )
        return forward(
            self._model,
            self._cache,
            step,
            ids=ids[:, None],
            positions=positions[:, None],
            mask=self._masks.for_cached(positions[:, None], seen),
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
        model: Decoder.
        cache: Does what *step* says.
        step: Where the tokens go, and what they see.
        ids: ``[rows, tokens]``, int64.
        positions: Of the tokens in their rows, like *ids*.
        mask: Of `Masks`.

    Returns:
        ``[rows, vocab]``: the last logits that the output layer gives for each row.
    """
    cache.begin(step)
    output = model(
        input_ids=ids,
        position_ids=positions,
        attention_mask=mask,
        use_cache=True,
        **{cache_argument(model): cache},
    )
    cache.end()
    logits: Tensor = output.logits
    return logits[:, -1]


@contextmanager
def only_positions(head: torch.nn.Module, places: Tensor) -> Iterator[None]:
    """Have the output layer compute *places* alone: ``[n, 2]``, row and position.

    ``logits_to_keep`` takes the same positions of every row, which are many logits too
    many when prompts of different lengths share a pass. The layer's output is
    ``[n, 1, vocab]``.
    """

    def select(_: torch.nn.Module, inputs: tuple[Tensor]) -> Tensor:
        rows, positions = places.view(-1, 2).unbind(1)
        return inputs[0][rows, positions][:, None]

    hook = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        hook.remove()
