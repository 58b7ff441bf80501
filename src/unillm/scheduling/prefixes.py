# SPDX-License-Identifier: Apache-2.0

"""`RowContents`: the tokens in each slot's row, and prefixes that new prompts share.

A row keeps its tokens when its request ends, until the slot has a new owner. A prompt
that begins like the tokens of any row takes over that part, and the engine computes the
rest alone. So no memory is needed besides the rows, and free slots are given away in
the order in which they were last used. Where rows share nothing, the slot that was
freed last is given away first.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable

import attrs

from ..engines.base import EngineRequest


@attrs.frozen
class Prefix:
    """The longest beginning of a prompt that some row holds."""

    length: int = 0
    """Tokens; 0 where no row shares enough."""
    slot: int = 0
    """The slot of that row; ignored where `length` is 0."""
    is_coming: bool = False
    """Whether a prompt under way will share more, so that waiting for it pays."""


@attrs.define(eq=False)
class _Row:
    """The tokens of one row."""

    group: Hashable
    """Rows of other groups share nothing with it."""
    rank: tuple[int, int]
    """Priority and arrival of its request."""
    ids: array[int]
    """Prompt and new tokens, whether they are in the row yet or not."""
    written: int
    """Tokens of `ids` that the row holds."""


class RowContents:
    """Knows what rows hold, and gives slots to requests.

    Args:
        num_slots: Slots of the engine.
        shortest: Tokens that a prefix must have to be taken over; `None` takes none.

    Attributes:
        free: Slots without a request, in the order in which they are given away.
    """

    def __init__(self, num_slots: int, *, shortest: int | None) -> None:
        self._shortest = shortest
        self._rows: list[_Row | None] = [None] * num_slots
        self.free = list(range(num_slots))

    def find(self, request: EngineRequest) -> Prefix:
        """Return the longest prefix of a waiting request that a row holds."""
        if self._shortest is None or request.params.prompt_logprobs is not None:
            return Prefix()
        prompt = array("q", request.prompt_token_ids)
        most = len(prompt) - 1  # the logits of the last token have to be computed
        length = slot = longest = 0
        for number, row in enumerate(self._rows):
            if row is None or row.group != _group_of(request):
                continue
            limit = min(most, len(row.ids))
            # A row that improves on the others has their next token too.
            if limit <= length or row.ids[length] != prompt[length]:
                continue
            shared = common_length(row.ids, prompt, limit)
            if min(shared, row.written) > length:
                length, slot = min(shared, row.written), number
            if row.rank <= _rank_of(request):
                longest = max(longest, shared)
        is_coming = longest - length >= self._shortest
        if length < self._shortest:
            length = 0
        return Prefix(length, slot, is_coming=is_coming)

    def take(self, request: EngineRequest, prefix: Prefix) -> int:
        """Give a free slot to a request that takes over *prefix*; return the slot."""
        slot = self.free[0]
        if prefix.length:
            row = self._rows[prefix.slot]
            assert row is not None
            if prefix.slot in self.free:
                # Its tokens count as used now. Nothing is lost where all of them match.
                self.free.remove(prefix.slot)
                self.free.append(prefix.slot)
                slot = prefix.slot if row.written == prefix.length else self.free[0]
        self.free.remove(slot)
        if self._shortest is not None:
            ids = array("q", request.prompt_token_ids)
            group, rank = _group_of(request), _rank_of(request)
            self._rows[slot] = _Row(group, rank, ids, written=0)
        return slot

    def note_prompt(self, slot: int, end: int) -> None:
        """Record that the prompt of a slot is in its row, up to *end*."""
        if (row := self._rows[slot]) is not None:
            row.written = end

    def note_token(self, slot: int, token_id: int) -> None:
        """Record a new token, with which all tokens before it are in the row."""
        if (row := self._rows[slot]) is not None:
            row.written = len(row.ids)
            row.ids.append(token_id)

    def release(self, slot: int, *, keep: bool) -> None:
        """Free a slot, and keep what its row holds or forget it."""
        row = self._rows[slot]
        if row is not None and keep:
            del row.ids[row.written :]
        else:
            self._rows[slot] = None
        if self._shortest is None:
            self.free.insert(0, slot)
        else:
            self.free.append(slot)


def common_length(one: array[int], other: array[int], limit: int) -> int:
    """Return how many of the first *limit* ids two arrays share."""
    if one[:limit] == other[:limit]:
        return limit
    low, high = 0, limit
    while high - low > 1:
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low


def _group_of(request: EngineRequest) -> Hashable:
    """Keys and values depend on the adapter; a salt keeps those of callers apart."""
    return request.lora_request, request.cache_salt


def _rank_of(request: EngineRequest) -> tuple[int, int]:
    return request.priority, request.arrival
