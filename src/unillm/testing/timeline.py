# SPDX-License-Identifier: Apache-2.0

"""Recorders of real runs: which request held which slot, step by step.

`RecordingSlotEngine` stands between a `SlotScheduler` and its engine,
`RecordingBatchEngine` between a `RunScheduler` and its engine, where the slots are the
rows of the runs. Both pass every call on unchanged and record a `Timeline`. The
schedulers know nothing of it.
"""

from __future__ import annotations

from collections.abc import Generator, Hashable, Iterable, Sequence

import attrs
from typing_extensions import override

from ..engines.base import EngineRequest
from ..engines.batches import BatchEngine, BatchRow, RunStep
from ..engines.slots import PrefillResult, PromptChunk, SlotEngine, SlotToken


@attrs.frozen(kw_only=True)
class Hold:
    """The steps in which a request holds a slot, counted from 0, both ends included."""

    request_id: str
    slot: int
    first_step: int
    last_step: int
    """Step of its last token; at least `first_step`."""
    prompt_steps: int
    """Steps that compute its prompt. The last of them yields the first token."""

    @property
    def num_steps(self) -> int:
        """Steps from the first to the last."""
        return self.last_step - self.first_step + 1


@attrs.frozen(kw_only=True)
class Timeline:
    """All holds of a recording, sorted by first step and slot."""

    num_slots: int
    holds: tuple[Hold, ...]

    @property
    def num_steps(self) -> int:
        """Steps from the first hold to the end of the last."""
        return max((hold.last_step + 1 for hold in self.holds), default=0)

    @property
    def occupancy(self) -> float:
        """Share of the slot-steps in which a request held the slot; 0 without holds."""
        used = sum(hold.num_steps for hold in self.holds)
        return used / (self.num_slots * self.num_steps or 1)


class RecordingSlotEngine(SlotEngine):
    """Wraps a slot engine and records which request holds which slot.

    A recorded step ends with a decode call: prefill calls without a decode call between
    them belong to one step.

    Args:
        engine: Computes. `close` closes it too.
    """

    def __init__(self, engine: SlotEngine) -> None:
        self._engine = engine
        self._step = 0
        self._live: dict[int, Hold] = {}  # by slot
        self._ended: list[Hold] = []
        self.num_slots = engine.num_slots
        self.max_model_len = engine.max_model_len
        self.vocab_size = engine.vocab_size
        self.capabilities = engine.capabilities
        self.splits_prompts = engine.splits_prompts
        self.max_loras = engine.max_loras
        self.shortest_prefix = engine.shortest_prefix

    def timeline(self) -> Timeline:
        """Return the recording so far; a running request ends at its last token."""
        return _timeline(self.num_slots, [*self._ended, *self._live.values()])

    @override
    def check_request(self, request: EngineRequest) -> None:
        self._engine.check_request(request)

    @override
    def prefill(self, chunks: Sequence[PromptChunk]) -> PrefillResult:
        result = self._engine.prefill(chunks)
        for chunk in chunks:
            live = None if chunk.is_first else self._live[chunk.slot]
            first_step = live.first_step if live else self._step
            self._live[chunk.slot] = Hold(
                request_id=chunk.request.request_id,
                slot=chunk.slot,
                first_step=first_step,
                last_step=self._step,
                prompt_steps=self._step - first_step + 1,
            )
        return result

    @override
    def decode(self, slots: Sequence[int]) -> Sequence[SlotToken]:
        tokens = self._engine.decode(slots)
        for slot in slots:
            self._live[slot] = attrs.evolve(self._live[slot], last_step=self._step)
        self._step += 1
        return tokens

    @override
    def release(self, slot: int) -> None:
        self._engine.release(slot)
        self._ended.append(self._live.pop(slot))

    @override
    def close(self) -> None:
        self._engine.close()


class RecordingBatchEngine(BatchEngine):
    """Wraps a batch engine and records which request is in which row of its runs.

    A stopped request has one hold for each of its runs. `Hold.prompt_steps` counts the
    steps until the run yields the row's first token.

    Args:
        engine: Computes. `close` closes it too.
    """

    def __init__(self, engine: BatchEngine) -> None:
        self._engine = engine
        self._step = 0
        self._holds: dict[tuple[int, int], Hold] = {}  # by first step and row
        self.limits = engine.limits
        self.traits = engine.traits
        self.capabilities = engine.capabilities

    def timeline(self) -> Timeline:
        """Return the recording so far; a running request ends at its last token."""
        return _timeline(self.limits.max_num_seqs, self._holds.values())

    @override
    def group(self, request: EngineRequest) -> Hashable:
        return self._engine.group(request)

    @override
    def check_request(self, request: EngineRequest) -> None:
        self._engine.check_request(request)

    @override
    def run(
        self, rows: Sequence[BatchRow], *, max_new_tokens: int
    ) -> Generator[RunStep, None, None]:
        start = self._step
        run = self._engine.run(rows, max_new_tokens=max_new_tokens)
        try:
            for step in run:
                self._step += step.num_steps
                for tokens in step.rows:
                    if tokens.token_ids:
                        self._record(start, tokens.row, rows[tokens.row].request)
                yield step
        finally:
            run.close()

    @override
    def end_row(self, row: int) -> None:
        self._engine.end_row(row)

    @override
    def close(self) -> None:
        self._engine.close()

    def _record(self, start: int, row: int, request: EngineRequest) -> None:
        last_step = self._step - 1
        hold = self._holds.get((start, row))
        self._holds[start, row] = Hold(
            request_id=request.request_id,
            slot=row,
            first_step=start,
            last_step=last_step,
            prompt_steps=hold.prompt_steps if hold else last_step - start + 1,
        )


def _timeline(num_slots: int, holds: Iterable[Hold]) -> Timeline:
    ordered = sorted(holds, key=lambda hold: (hold.first_step, hold.slot))
    return Timeline(num_slots=num_slots, holds=tuple(ordered))
