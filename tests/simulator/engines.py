# SPDX-License-Identifier: Apache-2.0

"""Engines of a simulated world, which follow a script and fail at random."""

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
    """How a call of an engine fails for all of its requests."""

    RAISES = "raises"
    """The call raises an exception."""
    HANGS = "hangs"
    """The call returns after the watchdog's time-out."""
    SHORT = "short"
    """The call returns one row too few; a run of a static batch ends too soon."""
    EXTRA = "extra"
    """The call returns one row too many."""


NAN_ROW = "its logits are NaN"


class SimulatedFaultError(RuntimeError):
    """The exception of a failing engine, such as an error of a device's driver."""


@attrs.define(kw_only=True)
class Failing:
    """The plan of an engine's failures."""

    at_call: int
    """Number of the call that fails; -1 for none."""
    fault: Fault
    row_chance: float
    """Probability that a row has no valid token, for each row and call."""
    rng: random.Random
    hang: Callable[[], None]
    """Lets time pass and runs the watchdog."""
    history: History
    calls: int = 0

    def next_fault(self) -> Fault | None:
        """Count a call; return the fault of its answer, if it has one.

        A call that raises or hangs does so here.
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
    """A scripted slot engine that fails by plan.

    Args:
        failing: The plan.
        history: Receives the owners of rows.
        num_slots: Number of rows.
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
        """Return a call's answer, given the tokens that it computed."""
        answer = [
            SlotToken(0, error=NAN_ROW)
            if token is not None and self._failing.row_fails()
            else token
            for token in tokens
        ]
        fault = self._failing.next_fault()
        if fault is Fault.SHORT:
            return answer[:-1]
        return [*answer, SlotToken(1)] if fault is Fault.EXTRA else answer

    @override
    def release(self, slot: int) -> None:
        super().release(slot)
        self._history.note("release", slot)


class SimulatedBatchEngine(ScriptedBatchEngine):
    """A scripted batch engine that fails by plan.

    Args:
        failing: The plan.
        history: Receives the requests of each run.
        num_rows: Rows of its largest batch.
        max_model_len: Prompt and new tokens of a row.
        traits: How it runs a batch.
        costs: Seconds of its work, on its own clock.
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
        for index, row in enumerate(rows):
            request_id = row.request.request_id
            if request_id not in self._begun:
                self._begun.add(request_id)
                self._history.note("admit", request_id, index)
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
                answer = [self._after_row(each) for each in step.rows]
                yield attrs.evolve(
                    step, rows=answer + (extra if fault is Fault.EXTRA else [])
                )

    def _after_row(self, tokens: RowTokens) -> RowTokens:
        if not self._failing.row_fails():
            return tokens
        return RowTokens(row=tokens.row, error=NAN_ROW)


class RecordedEngine(Engine):
    """Wraps an engine and records its calls and outputs in a history.

    Args:
        engine: Computes. `close` closes it too.
        history: Receives the events.
        refused: Returns whether the engine refuses the request of an id.
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
            raise InvalidParameterError("refused by the world", parameter="params")
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
