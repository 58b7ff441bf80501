# SPDX-License-Identifier: Apache-2.0

"""`RunScheduler`: continuous batching over static batches, by stopping their runs.

When rows have ended and requests wait, the scheduler stops the run as soon as
`StopRule` says that a stop pays. The next run begins with the survivors, whose new
tokens are now a part of their prompts, and with requests that waited.

Invariants, checked by `RunScheduler.check`:

- a row of a run belongs to one request, and a live request has at most one row;
- a request waits, is in the run, or is between two runs; never two of these;
- a run has no more rows than the engine's largest batch;
- a request that the engine could not continue in another run is never stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import attrs
from typing_extensions import override

from ..engines.base import Engine, EngineOutput, EngineRequest
from ..engines.batches import BatchEngine, PromptWork, RowTokens, Run, RunStep
from ..errors import PluginError
from .admitted import AdmittedRequest, assign_rows
from .policy import prefill_of
from .queue import WaitingQueue, shrink
from .stop_rule import StopRule

WINDOW = 16
"""Batches of next requests from which a run may choose its members. The first request
always joins, and at most as many later ones of its priority and group overtake it as
these batches hold."""


@attrs.define(eq=False)
class _CurrentRun:
    """The run under way."""

    run: Run
    rows: list[AdmittedRequest | None]
    """By row; `None` after the request's end."""
    max_new_tokens: int
    steps: int = 0

    @property
    def live(self) -> list[AdmittedRequest]:
        return [each for each in self.rows if each is not None]


@attrs.define(kw_only=True)
class RunCounters:
    """Counters of a `RunScheduler` since its creation."""

    steps: int = 0
    """Calls of `RunScheduler.step` that had work."""
    runs: int = 0
    stops: int = 0
    """Runs that the scheduler stopped for waiting requests."""
    refills: int = 0
    """Requests that joined survivors of a stopped run."""
    decode_steps: int = 0
    row_steps: int = 0
    """Tokens that the rows could have received, which is decode steps times the rows of
    the largest batch."""
    idle_row_steps: int = 0
    """Those of `row_steps` in which the row was empty, ended or without a token yet."""
    admitted: int = 0
    finished: int = 0
    aborted: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    """Prompt tokens that the engine computed for the first time."""
    reprefilled_tokens: int = 0
    """Tokens of survivors that the engine computed again."""
    prefill_padding: int = 0
    """Computed padding positions."""
    generated_tokens: int = 0


class RunScheduler(Engine):
    """An `Engine` over a `BatchEngine`: starts, stops and refills its runs.

    Args:
        engine: Computes. `close` closes it too.
        clock: Returns seconds that never decrease, to measure what the engine takes.

    Attributes:
        clock: As given. A test that must not depend on the machine's load replaces it
            before the first request.
        counters: What the scheduler did so far.
    """

    def __init__(self, engine: BatchEngine, *, clock: Callable[[], float]) -> None:
        self._engine = engine
        self.clock = clock
        self._max_rows = engine.limits.max_num_seqs
        self._waiting = WaitingQueue()
        self._arrived_at: dict[str, int] = {}  # step, by id of a waiting request
        self._run: _CurrentRun | None = None
        self._between: list[AdmittedRequest] = []
        """Survivors that are in no run."""
        self._rule = StopRule(engine.limits, engine.traits)
        self.counters = RunCounters()
        self.limits = engine.limits
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
            if self._drop(request_id):
                self.counters.aborted += 1
        self._close_if_over()

    @override
    def has_unfinished(self) -> bool:
        live = self._run is not None and any(self._run.rows)
        return live or self._others_wait()

    @override
    def step(self) -> list[EngineOutput]:
        if not self.has_unfinished():
            return []
        self.counters.steps += 1
        if self._run is not None and self._should_stop(self._run):
            self._run.run.close()
            self.counters.stops += 1
            self._leave(self._run)
        run = self._run or self._begin()
        news = next(run.run, None)
        if news is None:
            self._ended_by_engine(run)
            return []
        self._count(run, news)
        outputs = [self._accept(run, each) for each in news.rows]
        self._close_if_over()
        return [output for output in outputs if output is not None]

    @override
    def stats(self) -> Mapping[str, Any]:
        run = self._run
        return {
            "max_rows": self._max_rows,
            "running": len(self._between) + (len(run.live) if run else 0),
            "waiting": len(self._waiting),
            **attrs.asdict(self.counters),
            "step_seconds": self._rule.costs.step_s(self._max_rows),
            "prompt_token_seconds": self._rule.costs.prefill_token_s,
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
        ids = [each.request.request_id for each in [*live, *self._between]]
        assert len(ids) == len(set(ids))
        assert not any(request_id in self._waiting for request_id in ids)
        assert len(self._arrived_at) == len(self._waiting)
        assert self._run is None or len(self._run.rows) <= self._max_rows

    # ------------------------------------------------------------------- begin a run

    def _begin(self) -> _CurrentRun:
        """Begin a run with survivors and waiting requests of the next group."""
        group = self._next_group()
        survivors: list[AdmittedRequest] = []
        for each in self._between:
            if each.group == group and self._rule.fits([*survivors, each]):
                survivors.append(each)
        self._between = [each for each in self._between if each not in survivors]
        joining = self._admit(group, survivors)
        members = survivors + joining
        prefill_tokens = self._count_prefill(members)
        rows = assign_rows(survivors, joining)
        limit = self._rule.run_length(members, others_wait=self._others_wait())
        self._run = _CurrentRun(
            run=self._engine.run(
                [each.as_row() for each in rows], max_new_tokens=limit
            ),
            rows=[*rows],
            max_new_tokens=limit,
        )
        self._rule.begin_run(prefill_tokens, now=self.clock())
        return self._run

    def _next_group(self) -> Hashable:
        """Return the group of the request that has been in no run for the longest time.

        So survivors continue at once, unless a request of another group has waited
        longer; and they take the turn after it.
        """
        ready = [(s.request.priority, s.ready_at, s.group) for s in self._between]
        first = self._waiting.peek()
        if first is not None:
            arrived_at = self._arrived_at[first.request_id]
            ready.append((first.priority, arrived_at, self._engine.group(first)))
        return min(ready, key=lambda each: each[:2])[2]

    def _admit(
        self, group: Hashable, survivors: Sequence[AdmittedRequest]
    ) -> list[AdmittedRequest]:
        """Take the next requests of a group out of the queue.

        The first always joins, if it fits. The others of its priority in the window
        follow by how near their end is to that of the rows beside them; those that
        arrived a whole window after the oldest come last.
        """
        candidates = self._candidates(group)
        if len(candidates) > 1:
            first, *others = candidates
            aim = self._last_step(survivors[0] if survivors else first)
            end = min(each.request.arrival for each in candidates)
            end += WINDOW * self._max_rows
            others.sort(
                key=lambda each: (
                    each.request.priority,
                    max(each.request.arrival + 1 - end, 0),
                    abs(self._last_step(each) - aim),
                )
            )
            candidates = [first, *others]
        joining: list[AdmittedRequest] = []
        for each in candidates:
            if self._rule.fits([*survivors, *joining, each]):
                joining.append(each)
        for each in joining:
            self._waiting.remove(each.request.request_id)
            del self._arrived_at[each.request.request_id]
            shrink(self._arrived_at)
            each.refilled = bool(survivors)
        self.counters.admitted += len(joining)
        self.counters.refills += len(joining) if survivors else 0
        return joining

    def _candidates(self, group: Hashable) -> list[AdmittedRequest]:
        """Return those of the next requests that belong to a group, in their order."""
        return [
            AdmittedRequest(
                request=request,
                group=group,
                # The step after its arrival is the first that can admit a request.
                waited_steps=self.counters.steps
                - self._arrived_at[request.request_id]
                - 1,
                bound=self._rule.binds(request),
            )
            for request in self._waiting.first(WINDOW * self._max_rows)
            if self._engine.group(request) == group
        ]

    def _last_step(self, each: AdmittedRequest) -> int:
        """Return the step of a run in which a row ends at the latest."""
        stepwise = self._engine.traits.prompt_work is PromptWork.STEPWISE
        return each.left + (each.length if stepwise else 0)

    def _count_prefill(self, members: Sequence[AdmittedRequest]) -> int:
        """Count a run's prompts; return the positions that it computes at once."""
        work = self._engine.traits.prompt_work
        lengths = [each.length for each in members]
        prefill = prefill_of(lengths, work)
        self.counters.runs += 1
        self.counters.prefill_padding += prefill.padding
        for each in members:
            if each.num_runs:
                self.counters.reprefilled_tokens += each.length
            else:
                self.counters.prompt_tokens += each.length
            each.num_runs += 1
            each.generated_before = len(each.generated)
            if work is PromptWork.PADDED:
                each.padding += max(lengths) - each.length
        return prefill.tokens

    # --------------------------------------------------------------------- end a run

    def _others_wait(self) -> bool:
        return bool(self._waiting or self._between)

    def _should_stop(self, run: _CurrentRun) -> bool:
        live = run.live
        free = self._max_rows - len(live)
        if not self._others_wait() or not free:
            return False
        joining = [
            len(request.prompt_token_ids)
            for request, _ in zip(self._waiting, range(free), strict=False)
        ]
        return self._rule.should_stop(live, joining)

    def _leave(self, run: _CurrentRun) -> None:
        """Keep the survivors of a run that is over."""
        for each in run.live:
            each.ready_at = self.counters.steps
            self._between.append(each)
        self._run = None

    def _ended_by_engine(self, run: _CurrentRun) -> None:
        """Leave a run that has reached its limit.

        Raises:
            PluginError: The run ended before its limit and before its rows.
        """
        if run.live and run.steps < run.max_new_tokens:
            raise PluginError(
                f"A run ended after {run.steps} of {run.max_new_tokens} steps, and "
                f"{len(run.live)} of its rows have not ended. BatchEngine.run must "
                "give every row its tokens, up to max_new_tokens."
            )
        self._leave(run)

    def _close_if_over(self) -> None:
        """Close the run if all of its rows have ended."""
        if self._run is not None and not self._run.live:
            self._run.run.close()
            self._run = None

    # -------------------------------------------------------------- tokens and endings

    def _count(self, run: _CurrentRun, news: RunStep) -> None:
        """Count the news of a run, and let the rule measure it."""
        self._rule.measure(
            news.num_steps,
            live_rows=len(run.live),
            others_wait=self._others_wait(),
            now=self.clock(),
        )
        run.steps += news.num_steps
        received = sum(
            len(each.token_ids) for each in news.rows if run.rows[each.row] is not None
        )
        row_steps = news.num_steps * self._max_rows
        self.counters.decode_steps += news.num_steps
        self.counters.row_steps += row_steps
        self.counters.idle_row_steps += row_steps - received

    def _accept(self, run: _CurrentRun, news: RowTokens) -> EngineOutput | None:
        """Make an output of a row's new tokens, and retire the request if it ends."""
        member = run.rows[news.row]
        if member is None:
            return None
        request_id = member.request.request_id
        if news.error is not None:
            self._retire(run, news.row)
            self.counters.failed += 1
            return EngineOutput(
                request_id=request_id,
                finish_reason="error",
                error=news.error,
                slots=member.metrics(),
            )
        token_ids = member.accept(news.token_ids)
        if not token_ids:
            return None
        self.counters.generated_tokens += len(token_ids)
        reason = member.finish_reason
        if reason is not None:
            self._retire(run, news.row)
            self.counters.finished += 1
        logprobs = news.logprobs
        return EngineOutput(
            request_id=request_id,
            token_ids=token_ids,
            logprobs=None if logprobs is None else logprobs[: len(token_ids)],
            finish_reason=reason,
            stop_token_id=token_ids[-1] if reason == "stop" else None,
            slots=member.metrics(),
            prompt_logprobs=news.prompt_logprobs,
        )

    def _retire(self, run: _CurrentRun, row: int) -> None:
        run.rows[row] = None
        self._engine.end_row(row)

    def _drop(self, request_id: str) -> bool:
        """Drop a request, wherever it is; return whether it was anywhere."""
        if self._waiting.remove(request_id):
            del self._arrived_at[request_id]
            shrink(self._arrived_at)
            return True
        for each in self._between:
            if each.request.request_id == request_id:
                self._between.remove(each)
                return True
        if self._run is not None:
            for each in self._run.live:
                if each.request.request_id == request_id:
                    self._retire(self._run, each.row)
                    return True
        return False
