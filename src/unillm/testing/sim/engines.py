# SPDX-License-Identifier: Apache-2.0

"""Engines of a simulated world: they follow a script, and fail when told to."""

from __future__ import annotations

import enum
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs
from typing_extensions import override

from ...engines.base import Engine, EngineLimits, EngineOutput, EngineRequest
from ...errors import InvalidParameterError
from ...scheduling.slots import PrefillResult, PromptChunk, SlotToken
from ..scripted import ScriptedSlotEngine
from .history import History
from .traffic import VOCAB_SIZE, say


class Fault(enum.Enum):
    """How an engine's call goes wrong for all of its requests."""

    RAISES = "raises"
    """An exception comes out of it."""
    HANGS = "hangs"
    """It does not come back before the watchdog loses patience."""
    SHORT = "short"
    """It answers for one row too few."""
    EXTRA = "extra"
    """It answers for one row too many."""


class SimulatedFaultError(RuntimeError):
    """What a failing engine raises: on a device, a driver's error."""


@attrs.define(kw_only=True)
class Failing:
    """When an engine fails, and on which rows."""

    at_call: int
    """Number of the call that goes wrong; -1 for none."""
    fault: Fault
    row_chance: float
    """Of each row, at each call, to have no valid token."""
    rng: random.Random
    hang: Callable[[], None]
    """Lets time pass and the watchdog look."""
    history: History
    calls: int = 0

    def after_call(self, tokens: list[SlotToken | None]) -> list[SlotToken | None]:
        """Return what a call answers, given what it computed."""
        self.calls += 1
        if self.row_chance:
            tokens = [self._after_row(token) for token in tokens]
        if self.calls != self.at_call:
            return tokens
        self.history.note("fault", self.fault.value)
        if self.fault is Fault.RAISES:
            raise SimulatedFaultError("device-side assert triggered")
        if self.fault is Fault.HANGS:
            self.hang()
            return tokens
        return tokens[:-1] if self.fault is Fault.SHORT else [*tokens, SlotToken(1)]

    def _after_row(self, token: SlotToken | None) -> SlotToken | None:
        if token is None or self.rng.random() >= self.row_chance:
            return token
        return SlotToken(0, error="its logits are NaN")


class SimulatedSlotEngine(ScriptedSlotEngine):
    """A scripted slot engine that fails when it is told to.

    Args:
        failing: When.
        history: Is told who gets which row.
        num_slots: Rows.
        max_model_len: Prompt and new tokens of a row.
    """

    def __init__(
        self, failing: Failing, history: History, *, num_slots: int, max_model_len: int
    ) -> None:
        super().__init__(
            say,
            num_slots=num_slots,
            max_model_len=max_model_len,
            vocab_size=VOCAB_SIZE,
        )
        self._failing = failing
        self._history = history

    @property
    def rows_in_use(self) -> int:
        """Rows that have an owner."""
        return len(self._rows)

    @override
    def prefill(self, chunks: Sequence[PromptChunk]) -> PrefillResult:
        for chunk in chunks:
            if chunk.is_first:
                self._history.note("admit", chunk.request.request_id, chunk.slot)
        result = super().prefill(chunks)
        self.calls.clear()
        return attrs.evolve(
            result, tokens=self._failing.after_call(list(result.tokens))
        )

    @override
    def decode(self, slots: Sequence[int]) -> Sequence[SlotToken]:
        tokens = self._failing.after_call(list(super().decode(slots)))
        self.calls.clear()
        return [token for token in tokens if token is not None]

    @override
    def release(self, slot: int) -> None:
        super().release(slot)
        self._history.note("release", slot)


class RecordedEngine(Engine):
    """Does what another engine does, and writes it into a history.

    Args:
        engine: Closed with this one.
        history: Where to.
        refused: Prompts' first ids of requests that it refuses.
    """

    def __init__(
        self, engine: Engine, history: History, *, refused: Callable[[str], bool]
    ) -> None:
        self._engine = engine
        self._history = history
        self._refused = refused

    @property
    @override
    def limits(self) -> EngineLimits:
        return self._engine.limits

    @override
    def add_request(self, request: EngineRequest) -> None:
        if self._refused(request.request_id):
            raise InvalidParameterError("no such thing here", parameter="params")
        self._history.note("add", request.request_id, request.priority, request.arrival)
        self._engine.add_request(request)

    @override
    def step(self) -> list[EngineOutput]:
        before = self._engine.stats()
        outputs = self._engine.step()
        for output in outputs:
            self._history.note(
                "say",
                output.request_id,
                tuple(output.token_ids),
                output.finish_reason,
                output.stop_token_id,
                output.error,
            )
        after = self._engine.stats()
        self._history.note(
            "step",
            after["decode_steps"] - before["decode_steps"],
            after["occupied_slot_steps"] - before["occupied_slot_steps"],
            after["waiting"],
            after["prompt_tokens"] - before["prompt_tokens"],
        )
        return outputs

    @override
    def abort(self, request_ids: Iterable[str]) -> None:
        request_ids = list(request_ids)
        for request_id in request_ids:
            self._history.note("abort", request_id)
        self._engine.abort(request_ids)

    @override
    def has_unfinished(self) -> bool:
        return self._engine.has_unfinished()

    @override
    def stats(self) -> Mapping[str, Any]:
        return self._engine.stats()

    @override
    def close(self) -> None:
        self._engine.close()
