# SPDX-License-Identifier: Apache-2.0

"""`StopRule`: how long a run of a static batch goes on.

The rule measures the seconds of the engine's steps and prompts, and asks `policy`
whether a stop pays. It knows which requests another run could continue.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from ..engines.aspects import uses
from ..engines.base import EngineLimits, EngineRequest
from ..engines.batches import BatchTraits
from .admitted import AdmittedRequest
from .policy import PATIENCE, Costs, RunProgress, best_run_length, pays_to_stop


@attrs.define
class _Measured:
    """Measurements of the present run."""

    prefill_tokens: int
    last_news_at: float
    """On the clock; the beginning of the run at first."""
    started: bool = False
    """Whether the run has yielded a step."""
    waste_s: float = 0.0
    waited_s: float = 0.0
    patience_s: float | None = None
    """How long requests may wait for a free row; `None` until one does."""


class StopRule:
    """Decides when a run ends for the requests that wait.

    Args:
        limits: The engine's limits.
        traits: How the engine runs a batch.

    Attributes:
        costs: Seconds of the engine's steps and prompt tokens, as measured so far.
    """

    def __init__(self, limits: EngineLimits, traits: BatchTraits) -> None:
        self._limits = limits
        self._traits = traits
        self._max_rows = limits.max_num_seqs
        self.costs = Costs(self._max_rows, traits.prompt_work)
        self._run = _Measured(0, 0.0)
        self._rest_until = 0.0
        """The patience of a request ends no sooner, so that the last stop can pay."""

    # ------------------------------------------------------------------- before a run

    def binds(self, request: EngineRequest) -> bool:
        """Return whether a second run would lose state that the request needs."""
        return any(_has_state(request, name) for name in self._traits.run_bound_fields)

    def fits(self, requests: Sequence[AdmittedRequest]) -> bool:
        """Return whether one run can hold these requests and strand none of them."""
        if len(requests) > self._max_rows:
            return False
        if not self._traits.shared_context:
            return True
        longest = self._longest_run(requests)
        return all(self._can_stop_after(each, longest) for each in requests)

    def run_length(
        self, requests: Sequence[AdmittedRequest], *, others_wait: bool
    ) -> int:
        """Return how many tokens a run of these may give each row."""
        longest = self._longest_run(requests)
        if self._traits.can_stop or not others_wait:
            return longest
        candidates = [
            steps
            for steps in {longest, *(each.left for each in requests)}
            if steps <= longest
            and all(self._can_stop_after(each, steps) for each in requests)
        ]
        return best_run_length(
            candidates,
            lengths=[each.length for each in requests],
            left=[each.left for each in requests],
            costs=self.costs,
        )

    def _longest_run(self, requests: Sequence[AdmittedRequest]) -> int:
        longest = max(each.left for each in requests)
        if not self._traits.shared_context:
            return longest
        room = self._limits.max_model_len - max(each.length for each in requests)
        return min(longest, room)

    def _can_stop_after(self, each: AdmittedRequest, steps: int) -> bool:
        """Return whether a request ends within *steps*, or could continue then."""
        if each.left <= steps:
            return True
        return not each.bound and each.length + steps <= self._limits.longest_prompt

    # ------------------------------------------------------------------- during a run

    def begin_run(self, prefill_tokens: int, *, now: float) -> None:
        """Begin to measure a run.

        Args:
            prefill_tokens: Prompt positions that the engine computes at once.
            now: Seconds on the scheduler's clock.
        """
        self._run = _Measured(prefill_tokens, now)

    def measure(
        self, num_steps: int, *, live_rows: int, others_wait: bool, now: float
    ) -> None:
        """Record the seconds of the run's latest steps, and the waste among them.

        Args:
            num_steps: Decode steps since the last news.
            live_rows: Rows that had not ended before them.
            others_wait: Whether a request waits for a row.
            now: Seconds on the scheduler's clock.
        """
        run = self._run
        seconds, run.last_news_at = now - run.last_news_at, now
        step_s = seconds / num_steps
        if run.started:
            self.costs.note_step(live_rows, step_s)
        elif num_steps == 1:
            self.costs.note_prefill(run.prefill_tokens, rows=live_rows, seconds=seconds)
            step_s = 0.0
        else:
            self.costs.note_whole(
                run.prefill_tokens, steps=num_steps, rows=live_rows, seconds=seconds
            )
        run.started = True
        if others_wait and live_rows < self._max_rows:
            run.waste_s += self.costs.waste_s(live_rows, step_s) * num_steps
            run.waited_s += seconds

    def should_stop(
        self, live: Sequence[AdmittedRequest], joining: Sequence[int]
    ) -> bool:
        """Return whether to stop the run now for requests that wait for a free row.

        Args:
            live: The requests of the run that have not ended.
            joining: Prompt lengths of the requests that would join them.
        """
        if not self._traits.can_stop:
            return False
        for each in live:
            # A run that brings a row no further could be restarted for ever.
            is_stuck = len(each.generated) == each.generated_before
            if is_stuck or not self._can_stop_after(each, 0):
                return False
        run = self._run
        restart = self.costs.restart_s([each.length for each in live], joining)
        if run.patience_s is None:
            run.patience_s = max(
                PATIENCE * restart, self._rest_until - run.last_news_at
            )
        progress = RunProgress(
            live_rows=len(live),
            longest_left=max(each.left for each in live),
            waste_s=run.waste_s,
            waited_s=run.waited_s,
            patience_s=run.patience_s,
            restart_s=restart,
        )
        if not pays_to_stop(progress, self.costs):
            return False
        self._rest_until = run.last_news_at + PATIENCE * restart
        return True


def _has_state(request: EngineRequest, name: str) -> bool:
    """Return whether a field has an effect that its default has not."""
    if name == "seed" and request.params.greedy:
        return False
    return uses(request, name)
