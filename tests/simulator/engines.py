# SPDX-License-Identifier: Apache-2.0

"""Engines of a simulated world: they follow a script, and fail when told to."""

from __future__ import annotations

import contextlib
import enum
import random
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any

import attrs
from typing_extensions import override

from unillm.engines.base import Engine, EngineOutput, EngineRequest
from unillm.engines.batches import BatchRow, BatchTraits, RowTokens, RunStep
from unillm.engines.slots import PrefillResult, PromptChunk, SlotToken
from unillm.errors import InvalidParameterError
from unillm.testing.batches import ScriptedBatchEngine, StepCosts
from unillm.testing.scripted import ScriptedSlotEngine

from .history import History
from .traffic import VOCAB_SIZE, say


class Fault(enum.Enum):
    """How an engine's call goes wrong for all of its requests."""

    RAISES = "raises"
    """An exception comes out of it."""
    HANGS = "hangs"
    """It does not come back before the watchdog loses patience."""
    SHORT = "short"
    """It answers for one row too few; a run of a static batch ends too soon."""
    EXTRA = "extra"
    """It answers for one row too many."""


NAN_ROW = "its logits are NaN"


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

    def next_fault(self) -> Fault | None:
        """Count a call, and return how it is to answer wrongly, if it is.

        One that raises or hangs does so here.
        """
        self.calls += 1
        if self.calls != self.at_call:
            return None
        self.history.note("fault", self.fault.value)
        if self.fault is Fault.RAISES:
            raise SimulatedFaultError("device-side assert triggered")
        if self.fault is Fault.HANGS:
            self.hang()
            return None
        return self.fault

    def row_fails(self) -> bool:
        """Draw whether a row has no valid token."""
        return bool(self.row_chance) and self.rng.random() < self.row_chance


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
        return attrs.evolve(result, tokens=self._answer(result.tokens))

    @override
    def decode(self, slots: Sequence[int]) -> Sequence[SlotToken]:
        tokens = self._answer(super().decode(slots))
        self.calls.clear()
        return [token for token in tokens if token is not None]

    def _answer(self, tokens: Sequence[SlotToken | None]) -> list[SlotToken | None]:
        """Return what a call answers, given what it computed."""
        told = [
            SlotToken(0, error=NAN_ROW)
            if token is not None and self._failing.row_fails()
            else token
            for token in tokens
        ]
        fault = self._failing.next_fault()
        if fault is Fault.SHORT:
            return told[:-1]
        return [*told, SlotToken(1)] if fault is Fault.EXTRA else told

    @override
    def release(self, slot: int) -> None:
        super().release(slot)
        self._history.note("release", slot)


class SimulatedBatchEngine(ScriptedBatchEngine):
    """A scripted batch engine that fails when it is told to.

    Args:
        failing: When.
        history: Is told who is in which run.
        num_rows: Rows of its largest batch.
        max_model_len: Prompt and new tokens of a row.
        traits: What it cannot do.
        costs: What its work takes, on its own clock.
    """

    def __init__(
        self,
        failing: Failing,
        history: History,
        *,
        num_rows: int,
        max_model_len: int,
        traits: BatchTraits,
        costs: StepCosts,
    ) -> None:
        super().__init__(
            say,
            max_rows=num_rows,
            traits=traits,
            costs=costs,
            max_model_len=max_model_len,
            vocab_size=VOCAB_SIZE,
        )
        self._failing = failing
        self._history = history
        self._begun: set[str] = set()

    @property
    def rows_in_use(self) -> int:
        """1 while a run goes on."""
        return int(self._running)

    @override
    def run(
        self, rows: Sequence[BatchRow], *, max_new_tokens: int
    ) -> Generator[RunStep, None, None]:
        for place, row in enumerate(rows):
            request_id = row.request.request_id
            if request_id not in self._begun:
                self._begun.add(request_id)
                self._history.note("admit", request_id, place)
        self._history.note("run", tuple(row.request.request_id for row in rows))
        steps = super().run(rows, max_new_tokens=max_new_tokens)
        self.calls.clear()
        return self._answers(steps, len(rows))

    def _answers(
        self, steps: Generator[RunStep, None, None], num_rows: int
    ) -> Generator[RunStep, None, None]:
        with contextlib.closing(steps):
            for step in steps:
                fault = self._failing.next_fault()
                if fault is Fault.SHORT:
                    return
                extra = [RowTokens(row=num_rows, token_ids=(1,))]
                told = [self._after_row(each) for each in step.rows]
                yield attrs.evolve(
                    step, rows=told + (extra if fault is Fault.EXTRA else [])
                )

    def _after_row(self, told: RowTokens) -> RowTokens:
        if not self._failing.row_fails():
            return told
        return RowTokens(row=told.row, error=NAN_ROW)


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
        self.limits = self._engine.limits

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
        if "occupied_slot_steps" not in after:
            return outputs
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
