# SPDX-License-Identifier: Apache-2.0

"""Continuous batching over static batches: runs that are stopped when a refill pays.

`BatchEngine` is what a backend implements whose engine only knows
``generate(batch)``: prompts in, tokens of all rows step by step, and nothing joins a
batch that runs. `RunScheduler` turns it into an `Engine`. When rows have ended and
requests wait, it stops the run at the moment that `policy` names, and starts the next
one with the survivors, their generated tokens now a part of the prompt, and with the
requests that waited.

Invariants, checked by `RunScheduler.check`:

- a row of a run belongs to one request, and a live request has at most one row;
- a request waits, is in the run, or stands between two runs; never two of them;
- a run has no more rows than the engine's largest batch;
- a request that the engine could not continue in another run is never stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import attrs
from typing_extensions import override

from ..engines.base import (
    Engine,
    EngineOutput,
    EngineRequest,
)
from ..engines.batches import BatchEngine, BatchRow, PromptWork, RowTokens, Run, RunStep
from ..errors import PluginError
from ..outputs import FinishReason, SlotMetrics
from ..params import SamplingParams
from .policy import (
    PATIENCE,
    Costs,
    RunProgress,
    best_run_length,
    pays_to_stop,
    prefill_of,
    restart_s,
    step_waste_s,
)
from .queue import WaitingQueue

WINDOW = 16
"""How many of the next requests a run may choose from, in batches. The first of them
always goes, and nobody is passed by more of the same priority and group that came later
than this many batches hold."""


@attrs.define(eq=False)
class _Started:
    """A request that was admitted to a run and has not ended."""

    request: EngineRequest
    group: Hashable
    waited_steps: int
    refilled: bool = False
    generated: list[int] = attrs.Factory(list)
    runs: int = 0
    steps: int = 0
    padding: int = 0
    ready_at: int = 0
    """The scheduler's step since which it is in no run."""
    bound: bool = False
    """Whether it has to end in the run in which it began."""
    row: int = 0
    """In the run that it is in, or was in last."""
    before: int = 0
    """New tokens that it had when that run began."""

    @property
    def length(self) -> int:
        """Tokens of its prompt, and new ones."""
        return len(self.request.prompt_token_ids) + len(self.generated)

    @property
    def left(self) -> int:
        """New tokens that it may still get."""
        return self.request.max_new_tokens - len(self.generated)

    def as_row(self) -> BatchRow:
        return BatchRow(request=self.request, generated=tuple(self.generated))

    def metrics(self) -> SlotMetrics:
        return SlotMetrics(
            waited_steps=self.waited_steps,
            prefill_chunks=self.runs,
            prefill_padding=self.padding,
            decode_steps=self.steps,
            refilled=self.refilled,
        )


@attrs.define(eq=False)
class _RunUnderWay:
    """A run and what was counted of it."""

    run: Run
    rows: list[_Started | None]
    """By row; `None` once it has ended, and for rows that only fill a fixed batch."""
    group: Hashable
    prefill_tokens: int
    max_new_tokens: int
    told_at: float
    """On the clock, when it last told something, or began."""
    steps: int = 0
    waste_s: float = 0.0
    waited_s: float = 0.0
    patience_s: float | None = None
    """How long requests are to wait for a free row; `None` while none does."""

    @property
    def live(self) -> list[_Started]:
        return [started for started in self.rows if started is not None]


@attrs.define(kw_only=True)
class RunCounters:
    """What the runs did since the scheduler was made."""

    steps: int = 0
    """Calls of `RunScheduler.step` that had work."""
    runs: int = 0
    stops: int = 0
    """Runs that were ended for requests that waited."""
    refills: int = 0
    """Requests that joined survivors of a stopped run."""
    decode_steps: int = 0
    row_steps: int = 0
    """All that could have been used, decode steps times rows of the largest batch."""
    idle_row_steps: int = 0
    """Of those, rows that were empty, had ended or got no token yet."""
    padding_rows: int = 0
    """Rows added to fill a fixed batch, summed over the runs."""
    admitted: int = 0
    finished: int = 0
    aborted: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    """Tokens of prompts computed, the first time."""
    reprefilled_tokens: int = 0
    """Tokens of survivors computed again."""
    prefill_padding: int = 0
    """Padding positions computed beside them."""
    generated_tokens: int = 0


class RunScheduler(Engine):
    """An `Engine` over a `BatchEngine`: runs, stops, refills and retires.

    Args:
        engine: Computes. The scheduler closes it.
        clock: Seconds from any start, ascending. What the engine costs is measured with
            it.
    """

    def __init__(self, engine: BatchEngine, *, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._clock = clock
        self.limits = engine.limits
        self._traits = engine.traits
        self._max_rows = self.limits.max_num_seqs
        self._waiting = WaitingQueue()
        self._arrived_at: dict[str, int] = {}
        self._run: _RunUnderWay | None = None
        self._between: list[_Started] = []
        """Stopped, and in no run."""
        self._costs = Costs()
        self._rest_until = 0.0
        """Until then nobody's patience is over: the last stop has to pay first."""
        self.counters = RunCounters()
        self.capabilities = engine.capabilities

    # ------------------------------------------------------------ the Engine contract

    @override
    def add_request(self, request: EngineRequest) -> None:
        self._engine.check_request(request)
        self._waiting.push(request)
        self._arrived_at[request.request_id] = self.counters.steps

    @override
    def abort(self, request_ids: Iterable[str]) -> None:
        for request_id in request_ids:
            if self._forget(request_id):
                self.counters.aborted += 1
        self._close_if_over()

    @override
    def has_unfinished(self) -> bool:
        live = self._run is not None and any(self._run.rows)
        return live or bool(self._between or self._waiting)

    @override
    def step(self) -> list[EngineOutput]:
        if not self.has_unfinished():
            return []
        self.counters.steps += 1
        if self._run is not None and self._stop_pays(self._run):
            self._stop(self._run)
        run = self._run or self._begin()
        told = next(run.run, None)
        if told is None:
            self._ended_by_engine(run)
            return []
        self._count(run, told)
        outputs = [
            output for tokens in told.rows for output in self._accept(run, tokens)
        ]
        self._close_if_over()
        return outputs

    @override
    def stats(self) -> Mapping[str, Any]:
        run = self._run
        return {
            "max_rows": self._max_rows,
            "running": len(self._between) + (len(run.live) if run else 0),
            "waiting": len(self._waiting),
            **attrs.asdict(self.counters),
            "step_seconds": self._costs.step_s(self._max_rows),
            "prompt_token_seconds": self._costs.prefill_token_s,
        }

    @override
    def close(self) -> None:
        if self._run is not None:
            self._run.run.close()
            self._run = None
        self._engine.close()

    def check(self) -> None:
        """Raise `AssertionError` if an invariant of this module does not hold."""
        live = self._run.live if self._run else []
        ids = [started.request.request_id for started in [*live, *self._between]]
        assert len(ids) == len(set(ids))
        assert not any(request_id in self._waiting for request_id in ids)
        assert len(self._arrived_at) == len(self._waiting)
        assert self._run is None or len(self._run.rows) <= self._max_rows

    # ------------------------------------------------------------------- begin a run

    def _begin(self) -> _RunUnderWay:
        """Start a run with the survivors whose turn it is and with who waits."""
        group = self._next_group()
        survivors: list[_Started] = []
        for each in self._between:
            if each.group == group and self._can_run([*survivors, each]):
                survivors.append(each)
        self._between = [s for s in self._between if s not in survivors]
        joining = self._admit(group, survivors)
        started = survivors + joining
        size = self._max_rows if self._traits.fixed_batch else len(started)
        rows = _placed(survivors, joining, size)
        filler = _filler(started)
        batch = [filler if each is None else each.as_row() for each in rows]
        work = prefill_of(
            [len(row.prompt_token_ids) for row in batch], self._traits.prompt_work
        )
        self._count_prefill(started, work.padding, len(rows))
        limit = self._planned_steps(started)
        self._run = _RunUnderWay(
            run=self._engine.run(batch, max_new_tokens=limit),
            rows=rows,
            group=group,
            prefill_tokens=work.tokens,
            max_new_tokens=limit,
            told_at=self._clock(),
        )
        return self._run

    def _next_group(self) -> Hashable:
        """Return whose turn it is: who has been in no run for the longest time.

        So survivors go on at once with their own kind, but for another kind that has
        waited longer they stand back, and it for them at the next turn.
        """
        ready = [(s.request.priority, s.ready_at, s.group) for s in self._between]
        first = self._waiting.peek()
        if first is not None:
            arrived_at = self._arrived_at[first.request_id]
            ready.append((first.priority, arrived_at, self._engine.group(first)))
        return min(ready, key=lambda each: each[:2])[2]

    def _admit(self, group: Hashable, survivors: Sequence[_Started]) -> list[_Started]:
        """Take the next requests of a group out of the queue.

        The next one to go is always taken, if it fits; of those behind it that are as
        urgent, inside a window, the ones that are most like the rows it will run with.
        Who came a whole window after the one that waits for longest is taken only if
        there is room when all the others are in.
        """
        candidates = self._candidates(group)
        if len(candidates) > 1:
            first, *others = candidates
            aim = self._steps_of(survivors[0] if survivors else first)
            end = min(each.request.arrival for each in candidates)
            end += WINDOW * self._max_rows
            others.sort(
                key=lambda each: (
                    each.request.priority,
                    max(each.request.arrival + 1 - end, 0),
                    abs(self._steps_of(each) - aim),
                )
            )
            candidates = [first, *others]
        admitted: list[_Started] = []
        for each in candidates:
            if self._can_run([*survivors, *admitted, each]):
                admitted.append(each)
        for each in admitted:
            self._waiting.remove(each.request.request_id)
            del self._arrived_at[each.request.request_id]
            each.refilled = bool(survivors)
        self.counters.admitted += len(admitted)
        self.counters.refills += len(admitted) if survivors else 0
        return admitted

    def _candidates(self, group: Hashable) -> list[_Started]:
        """Return those of a group among the next requests to go, in their order."""
        window = self._waiting.first(WINDOW * self._max_rows)
        return [
            _Started(
                request=request,
                group=group,
                # Admission is in the step after the arrival at the soonest.
                waited_steps=self.counters.steps
                - self._arrived_at[request.request_id]
                - 1,
                bound=self._is_bound(request),
            )
            for request in window
            if self._engine.group(request) == group
        ]

    def _steps_of(self, started: _Started) -> int:
        """Return after how many steps of a run a row would end at the latest."""
        stepwise = self._traits.prompt_work is PromptWork.STEPWISE
        return started.left + (started.length if stepwise else 0)

    def _planned_steps(self, started: Sequence[_Started]) -> int:
        """Return after how many tokens the run is to end, whatever happens."""
        most = self._most_steps(started)
        if self._traits.can_stop or not self._somebody_waits():
            return most
        candidates = [
            steps
            for steps in {most, *(each.left for each in started)}
            if steps <= most
            and all(self._can_go_on_after(each, steps) for each in started)
        ]
        return best_run_length(
            candidates,
            lengths=[each.length for each in started],
            left=[each.left for each in started],
            work=self._traits.prompt_work,
            costs=self._costs,
            max_rows=self._max_rows,
        )

    def _most_steps(self, started: Sequence[_Started]) -> int:
        """Return how many tokens a run of these could give each row."""
        longest = max(each.left for each in started)
        if not self._traits.shared_context:
            return longest
        room = self.limits.max_model_len - max(each.length for each in started)
        return min(longest, room)

    def _can_run(self, started: Sequence[_Started]) -> bool:
        """Whether one run can hold these, and lose none of them."""
        if len(started) > self._max_rows:
            return False
        if not self._traits.shared_context:
            return True
        most = self._most_steps(started)
        return all(self._can_go_on_after(each, most) for each in started)

    def _count_prefill(
        self, started: Sequence[_Started], padding: int, num_rows: int
    ) -> None:
        self.counters.runs += 1
        self.counters.padding_rows += num_rows - len(started)
        self.counters.prefill_padding += padding
        longest = max(each.length for each in started)
        for each in started:
            if each.runs:
                self.counters.reprefilled_tokens += each.length
            else:
                self.counters.prompt_tokens += each.length
            each.runs += 1
            each.before = len(each.generated)
            if self._traits.prompt_work is PromptWork.PADDED:
                each.padding += longest - each.length

    # -------------------------------------------------------------------- stop a run

    def _stop_pays(self, run: _RunUnderWay) -> bool:
        """Ask the policy, where a stop is possible at all."""
        live = run.live
        if not self._somebody_waits() or len(live) == self._max_rows:
            return False
        if not self._traits.can_stop or not all(
            # Each run brings each of its rows on, or they could be fed for ever.
            self._can_go_on_after(each, 0) and len(each.generated) > each.before
            for each in live
        ):
            return False
        restart = self._restart_s(live)
        if run.patience_s is None:
            run.patience_s = max(PATIENCE * restart, self._rest_until - run.told_at)
        progress = RunProgress(
            live_rows=len(live),
            longest_left=max(each.left for each in live),
            waste_s=run.waste_s,
            waited_s=run.waited_s,
            patience_s=run.patience_s,
            restart_s=restart,
        )
        if not pays_to_stop(progress, costs=self._costs, max_rows=self._max_rows):
            return False
        self._rest_until = run.told_at + PATIENCE * restart
        return True

    def _somebody_waits(self) -> bool:
        return bool(self._waiting or self._between)

    def _can_go_on_after(self, started: _Started, steps: int) -> bool:
        """Whether a request ends in so many steps, or could be continued then."""
        if started.left <= steps:
            return True
        length = started.length + steps
        return not started.bound and length <= self.limits.longest_prompt

    def _is_bound(self, request: EngineRequest) -> bool:
        """Whether another run would forget what the request's tokens depend on."""
        return any(
            _uses(request.params, name) for name in self._traits.run_bound_fields
        )

    def _restart_s(self, live: Sequence[_Started]) -> float:
        free = self._max_rows - len(live)
        joining = [
            len(request.prompt_token_ids)
            for request, _ in zip(self._waiting, range(free), strict=False)
        ]
        return restart_s(
            [each.length for each in live],
            joining,
            work=self._traits.prompt_work,
            costs=self._costs,
            max_rows=self._max_rows,
        )

    def _stop(self, run: _RunUnderWay) -> None:
        run.run.close()
        self.counters.stops += 1
        self._leave(run)

    def _leave(self, run: _RunUnderWay) -> None:
        """Keep what is left of a run that is over."""
        for started in run.live:
            started.ready_at = self.counters.steps
            self._between.append(started)
        self._run = None

    def _ended_by_engine(self, run: _RunUnderWay) -> None:
        """A run has no more to tell: it reached its limit."""
        if run.live and run.steps < run.max_new_tokens:
            raise PluginError(
                f"A run ended after {run.steps} of {run.max_new_tokens} steps, and "
                f"{len(run.live)} of its rows have not ended: BatchEngine.run gives "
                "every row its tokens, up to max_new_tokens."
            )
        self._leave(run)

    def _close_if_over(self) -> None:
        """End a run of which nobody wants more."""
        if self._run is not None and not self._run.live:
            self._run.run.close()
            self._run = None

    # -------------------------------------------------------------- tokens and endings

    def _count(self, run: _RunUnderWay, told: RunStep) -> None:
        """Learn from a step what it cost, and what of it was wasted."""
        now = self._clock()
        seconds, run.told_at = now - run.told_at, now
        live = len(run.live)
        seconds_a_step = seconds / told.num_steps
        if run.steps:
            self._costs.note_step(live, seconds_a_step)
        elif told.num_steps == 1:
            self._costs.note_prefill(run.prefill_tokens, rows=live, seconds=seconds)
            seconds_a_step = 0.0
        else:
            self._costs.note_whole(
                run.prefill_tokens, steps=told.num_steps, rows=live, seconds=seconds
            )
        run.steps += told.num_steps
        if self._somebody_waits() and live < self._max_rows:
            waste = step_waste_s(
                live,
                seconds=seconds_a_step,
                costs=self._costs,
                max_rows=self._max_rows,
            )
            run.waste_s += waste * told.num_steps
            run.waited_s += seconds
        given = sum(
            len(tokens.token_ids)
            for tokens in told.rows
            if run.rows[tokens.row] is not None
        )
        self.counters.decode_steps += told.num_steps
        self.counters.row_steps += told.num_steps * self._max_rows
        self.counters.idle_row_steps += told.num_steps * self._max_rows - given

    def _accept(self, run: _RunUnderWay, told: RowTokens) -> list[EngineOutput]:
        """Turn a row's new tokens into an output, and retire the request if it ends."""
        started = run.rows[told.row]
        if started is None:
            return []
        request = started.request
        if told.error is not None:
            self._retire(run, told.row)
            self.counters.failed += 1
            return [
                EngineOutput(
                    request_id=request.request_id,
                    finish_reason="error",
                    error=told.error,
                    slots=started.metrics(),
                )
            ]
        token_ids = _until_end(told.token_ids, request, started.left)
        if not token_ids:
            return []
        started.generated += token_ids
        started.steps += len(token_ids)
        self.counters.generated_tokens += len(token_ids)
        stopped = token_ids[-1] in request.stop_token_ids
        reason = _finish_reason(started, stopped=stopped)
        if reason is not None:
            self._retire(run, told.row)
            self.counters.finished += 1
        logprobs = told.logprobs
        return [
            EngineOutput(
                request_id=request.request_id,
                token_ids=token_ids,
                logprobs=None if logprobs is None else logprobs[: len(token_ids)],
                finish_reason=reason,
                stop_token_id=token_ids[-1] if stopped else None,
                slots=started.metrics(),
                prompt_logprobs=told.prompt_logprobs,
            )
        ]

    def _retire(self, run: _RunUnderWay, row: int) -> None:
        run.rows[row] = None
        self._engine.end_row(row)

    def _forget(self, request_id: str) -> bool:
        """Drop a request, wherever it is; false if it is nowhere."""
        if self._waiting.remove(request_id):
            del self._arrived_at[request_id]
            return True
        for started in self._between:
            if started.request.request_id == request_id:
                self._between.remove(started)
                return True
        for started in self._run.live if self._run else []:
            if started.request.request_id == request_id:
                assert self._run is not None
                self._retire(self._run, started.row)
                return True
        return False


_DEFAULTS = {field.name: field.default for field in attrs.fields(SamplingParams)}


def _uses(params: SamplingParams, name: str) -> bool:
    """Whether params ask for something of a field that their default does not."""
    if name == "seed" and params.greedy:
        return False
    value: object = getattr(params, name)
    return value != _DEFAULTS[name]


def _placed(
    survivors: Sequence[_Started], joining: Sequence[_Started], size: int
) -> list[_Started | None]:
    """Give everyone a row; survivors keep theirs where the run is large enough."""
    rows: list[_Started | None] = [None] * size
    moved = []
    for each in survivors:
        if each.row < size and rows[each.row] is None:
            rows[each.row] = each
        else:
            moved.append(each)
    free = [row for row in range(size) if rows[row] is None]
    for each, row in zip([*moved, *joining], free, strict=False):
        rows[row] = each
        each.row = row
    return rows


def _filler(started: Sequence[_Started]) -> BatchRow:
    """Return a row that costs as little as possible."""
    shortest = min(started, key=lambda each: len(each.request.prompt_token_ids))
    return BatchRow(request=attrs.evolve(shortest.request, max_new_tokens=1))


def _until_end(
    token_ids: Sequence[int], request: EngineRequest, left: int
) -> tuple[int, ...]:
    """Cut what an engine computed after a row's end."""
    kept = tuple(token_ids[:left])
    for count, token_id in enumerate(kept, start=1):
        if token_id in request.stop_token_ids:
            return kept[:count]
    return kept


def _finish_reason(started: _Started, *, stopped: bool) -> FinishReason | None:
    if stopped:
        return "stop"
    return "length" if started.left <= 0 else None
