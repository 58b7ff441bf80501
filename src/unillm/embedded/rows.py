# SPDX-License-Identifier: Apache-2.0

"""`Rows`: which slot has which row of the cache, and what the rows hold.

Invariants:

- slots and rows are paired one to one;
- a row's positions below its `Row.length` hold the keys and values of its request, or
  of the last one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from operator import itemgetter

import attrs
import torch
from torch import Tensor

from ..engines.slots import PromptChunk
from ..lora import LoRARequest
from ..sampling.fetch import send
from .cache import SlotCache
from .grouping import in_parts

_AT_ONCE = 8
"""Pairs of rows that are exchanged at a time: the copy of one tensor needs memory."""

FILLER = 0
"""Token id of padding and of rows that no slot asked for; any id would do."""


@attrs.define(eq=False)
class Row:
    """The request in one row, or the last one."""

    slot: int
    is_live: bool = False
    length: int = 0
    """Positions that hold its tokens."""
    adapter: LoRARequest | None = None


class Rows:
    """The rows of a cache.

    Args:
        cache: Its rows are copied and cleared.
        num_slots: Slots, and rows.
        keeps: Whether the row of a free slot keeps what it holds.

    Attributes:
        all: The rows, in the order of the cache.
        last_tokens: ``[rows]``, int64, on the device: what the next decode step feeds
            each row, and any id where none does. It is not in the cache yet.
    """

    def __init__(self, cache: SlotCache, num_slots: int, *, keeps: bool) -> None:
        self._cache = cache
        self._keeps = keeps
        self.all = [Row(slot) for slot in range(num_slots)]
        self._numbers = list(range(num_slots))
        self.last_tokens = torch.full(
            (num_slots,), FILLER, dtype=torch.int64, device=cache.device
        )

    @property
    def kept(self) -> int:
        """Tokens that the rows of free slots keep."""
        return sum(row.length for row in self.all if not row.is_live)

    def number(self, slot: int) -> int:
        """Return the number of a slot's row."""
        return self._numbers[slot]

    def of(self, slot: int) -> Row:
        """Return the row of a slot."""
        return self.all[self._numbers[slot]]

    def note_tokens(self, slots: Sequence[int], token_ids: Tensor) -> None:
        """Record new tokens ``[slots]``, int64, on the device."""
        numbers = [self._numbers[slot] for slot in slots]
        if numbers == list(range(len(numbers))):
            self.last_tokens[: len(numbers)] = token_ids
        else:
            index = send(numbers, token_ids.device)
            self.last_tokens.index_copy_(0, index, token_ids)

    def admit(self, chunks: Sequence[PromptChunk]) -> None:
        """Give each owner of a first chunk a row with its prefix and nothing else."""
        fresh: list[int] = []
        taken: list[tuple[int, int]] = []
        targets: list[int] = []
        for chunk in chunks:
            assert not self.of(chunk.slot).is_live, "the slot still has an owner"
            if chunk.prefix_slot is None:
                self._move_forward(chunk.slot)
            row = self._numbers[chunk.slot]
            if chunk.prefix_slot is None:
                fresh.append(row)
            else:
                taken.append((self._numbers[chunk.prefix_slot], chunk.start))
                targets.append(row)
            self.all[row] = Row(
                chunk.slot,
                is_live=True,
                length=chunk.start,
                adapter=chunk.request.lora_request,
            )
        # Prompts that take over the same prefix one after the other share a copy.
        for (source, length), group in groupby(
            zip(taken, targets, strict=True), key=itemgetter(0)
        ):
            self._cache.copy(source, [row for _, row in group], length)
        self._cache.clear(fresh)

    def release(self, slot: int) -> None:
        """Free the row of a slot."""
        kept = self.of(slot).length if self._keeps else 0
        self.all[self._numbers[slot]] = Row(slot, length=kept)

    def compact(self, rows_for: Callable[[int], int]) -> None:
        """Move the last rows into gaps, so that live ones are the leading ones.

        No request waits for these gaps, or a prefill would have filled them. Moving a
        row costs about as much as one step over the gap.

        Args:
            rows_for: Rows that a step computes (`StepRunner`). Nothing is moved where
                they stay the same.
        """
        live = sum(row.is_live for row in self.all)
        last_live = max(
            (n for n, row in enumerate(self.all) if row.is_live), default=-1
        )
        if live > last_live or rows_for(live) == rows_for(last_live + 1):
            return
        gaps = [number for number in range(live) if not self.all[number].is_live]
        last = [
            number for number in range(live, len(self.all)) if self.all[number].is_live
        ]
        pairs = list(zip(gaps, last, strict=True))
        kept = [pair for pair in pairs if self.all[pair[0]].length]
        for part in in_parts(kept, _AT_ONCE):
            self._cache.swap(*zip(*part, strict=True))
        for gap, number in pairs:
            if (gap, number) not in kept:
                self._cache.copy(number, [gap], self.all[number].length)
            self._exchange(number, gap)
        if pairs:
            targets, sources = (
                send(each, self.last_tokens.device) for each in zip(*pairs, strict=True)
            )
            self.last_tokens[targets] = self.last_tokens[sources]

    def _move_forward(self, slot: int) -> None:
        """Give a free slot the first free row, unless that row keeps something."""
        first = next(i for i, row in enumerate(self.all) if not row.is_live)
        if not self.all[first].length:
            self._exchange(first, self._numbers[slot])

    def _exchange(self, one: int, other: int) -> None:
        rows = self.all
        rows[one], rows[other] = rows[other], rows[one]
        self._numbers[rows[one].slot] = one
        self._numbers[rows[other].slot] = other
