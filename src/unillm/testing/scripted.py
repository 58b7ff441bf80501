# SPDX-License-Identifier: Apache-2.0

"""A slot engine that says what a script says, and notes what it was asked.

For scheduling order and faults only. It computes nothing: what a real engine answers is
tested on a real engine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
from typing_extensions import override

from ..engines.base import EngineRequest
from ..scheduling.slots import PrefillResult, PromptChunk, SlotEngine, SlotToken

Script = Callable[[EngineRequest, int], int]
"""Which id a request says as its n-th new token (from 0)."""


@attrs.define(eq=False)
class _Row:
    request: EngineRequest
    prefilled: int = 0
    said: int = 0


class ScriptedSlotEngine(SlotEngine):
    """Rows that follow a script, and complain about a scheduler that breaks a rule.

    Args:
        script: Gives each new token. A request's tokens depend on nothing else.
        num_slots: Rows.
        max_model_len: Prompt and new tokens that a row holds.
        vocab_size: Ids are below it.

    Attributes:
        calls: What was asked, in order: ``("prefill", slots)``, ``("decode", slots)``,
            ``("release", slot)``, ``("close",)``.
    """

    def __init__(
        self,
        script: Script,
        *,
        num_slots: int = 4,
        max_model_len: int = 256,
        vocab_size: int = 1000,
    ) -> None:
        self._script = script
        self._num_slots = num_slots
        self._max_model_len = max_model_len
        self._vocab_size = vocab_size
        self._rows: dict[int, _Row] = {}
        self.calls: list[tuple[object, ...]] = []

    @property
    @override
    def num_slots(self) -> int:
        return self._num_slots

    @property
    @override
    def max_model_len(self) -> int:
        return self._max_model_len

    @property
    @override
    def vocab_size(self) -> int:
        return self._vocab_size

    @override
    def prefill(self, chunks: Sequence[PromptChunk]) -> PrefillResult:
        self.calls.append(("prefill", tuple(chunk.slot for chunk in chunks)))
        return PrefillResult(
            tokens=[self._write(chunk) for chunk in chunks], padding=[0] * len(chunks)
        )

    @override
    def decode(self, slots: Sequence[int]) -> Sequence[SlotToken]:
        self.calls.append(("decode", tuple(slots)))
        return [self._say(self._rows[slot]) for slot in slots]

    @override
    def release(self, slot: int) -> None:
        self.calls.append(("release", slot))
        del self._rows[slot]

    @override
    def close(self) -> None:
        self.calls.append(("close",))
        self._rows.clear()

    def _write(self, chunk: PromptChunk) -> SlotToken | None:
        if chunk.is_first:
            assert chunk.slot not in self._rows, "a held slot was given away"
            self._rows[chunk.slot] = _Row(chunk.request)
        row = self._rows[chunk.slot]
        assert row.request is chunk.request, "a chunk went into another one's slot"
        assert row.prefilled == chunk.start, "a gap between two chunks"
        row.prefilled = chunk.end
        return self._say(row) if chunk.is_last else None

    def _say(self, row: _Row) -> SlotToken:
        prompt_length = len(row.request.prompt_token_ids)
        assert row.prefilled == prompt_length, "decoded in the middle of a prompt"
        token_id = self._script(row.request, row.said)
        row.said += 1
        assert prompt_length + row.said <= self._max_model_len, "the row is full"
        return SlotToken(token_id)
