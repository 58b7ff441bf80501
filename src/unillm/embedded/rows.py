# SPDX-License-Identifier: Apache-2.0

"""`Rows`: which slot has which row of the cache, and what the rows hold.

Invariants:

- slots and rows are paired one to one;
- a row's positions below its `Row.length` hold the keys and values of its request, or
  of the last one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter

import attrs

from ..engines.slots import PromptChunk
from ..lora import LoRARequest
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
    last_token: int = FILLER
    """The input of its next decode step; not in the cache yet."""
    adapter: LoRARequest | None = None


class Rows:
    """The rows of a cache.

    Args:
        cache: Its rows are copied and cleared.
        num_slots: Slots, and rows.
        keeps: Whether the row of a free slot keeps what it holds.

    Attributes:
        all: The rows, in the order of the cache.
    """

    def __init__(self, cache: SlotCache, num_slots: int, *, keeps: bool) -> None:
        self._cache = cache
        self._keeps = keeps
        self.all = [Row(slot) for slot in range(num_slots)]
        self._numbers = list(range(num_slots))

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

    def compact(self) -> None:
        """Move the last rows into gaps, so that live ones are the leading ones.

        No request waits for these gaps, or a prefill would have filled them. Moving a
        row costs about as much as one step over the gap.
        """
        live = sum(row.is_live for row in self.all)
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
