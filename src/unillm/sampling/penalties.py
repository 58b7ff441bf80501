# SPDX-License-Identifier: Apache-2.0

"""`PenaltyCounts`: penalties for tokens that a request already has.

The counts take ``slots x vocabulary`` on the device, so the first request with a
penalty allocates them; a slot without one costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .fetch import send


class PenaltyCounts:
    """The tokens of each slot's request, and how often it generated them.

    Args:
        num_slots: Rows of the counts.
        vocab_size: Columns of the counts.
        device: Device of the logits.
    """

    def __init__(
        self, *, num_slots: int, vocab_size: int, device: torch.device
    ) -> None:
        self._shape = (num_slots, vocab_size)
        self._device = device
        self._in_prompt: Tensor | None = None
        self._generated: Tensor | None = None

    def begin(
        self, slot: int, prompt: Sequence[int], generated: Sequence[int] = ()
    ) -> None:
        """Count a request's prompt and earlier new tokens. The slot must be clean."""
        in_prompt, counts = self._allocated()
        in_prompt[slot].index_fill_(0, self._ids(prompt), value=True)
        if generated:
            ids = self._ids(generated)
            counts[slot].index_add_(0, ids, torch.ones_like(ids, dtype=counts.dtype))

    def add(self, slots: Tensor, token_ids: Tensor) -> None:
        """Count one new token for each of *slots*; both ``[rows]``, int64."""
        _, counts = self._allocated()
        one = torch.ones((), dtype=counts.dtype, device=counts.device)
        counts.index_put_((slots, token_ids), one, accumulate=True)

    def forget(self, slot: int) -> None:
        """Clean the slot."""
        if self._in_prompt is not None and self._generated is not None:
            self._in_prompt[slot].zero_()
            self._generated[slot].zero_()

    def free(self) -> None:
        """Free the memory."""
        self._in_prompt = self._generated = None

    def apply(
        self,
        scores: Tensor,
        slots: Tensor,
        *,
        repetition: Tensor,
        frequency: Tensor,
        presence: Tensor,
    ) -> Tensor:
        """Return *scores* ``[rows, vocab]`` after the penalties of each row.

        Args:
            scores: float32.
            slots: ``[rows]``, int64: the slot of each row.
            repetition: ``[rows]``; for prompt and new tokens, 1 is off.
            frequency: ``[rows]``; for new tokens, 0 is off.
            presence: ``[rows]``; for new tokens, 0 is off.

        References:
            ``apply_penalties`` of vLLM 0.32, which has the same order.
        """
        in_prompt, counts = self._allocated()
        count = counts.index_select(0, slots)
        seen = in_prompt.index_select(0, slots) | (count > 0)
        factor = repetition[:, None]
        repeated = torch.where(scores > 0, scores / factor, scores * factor)
        scores = torch.where(seen, repeated, scores)
        scores = scores - frequency[:, None] * count
        return scores - presence[:, None] * (count > 0)

    def _allocated(self) -> tuple[Tensor, Tensor]:
        if self._in_prompt is None or self._generated is None:
            shape, device = self._shape, self._device
            self._in_prompt = torch.zeros(shape, dtype=torch.bool, device=device)
            self._generated = torch.zeros(shape, dtype=torch.int32, device=device)
        return self._in_prompt, self._generated

    def _ids(self, token_ids: Sequence[int]) -> Tensor:
        return send(token_ids, self._device)
