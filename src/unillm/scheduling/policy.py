# SPDX-License-Identifier: Apache-2.0

"""Costs of a batch engine, and when a stop of its run pays, from numbers alone.

All times are in the seconds of one clock; only their ratios matter.

A stop costs the next run's prefill of the tokens that the survivors had already
computed (*restart*). Going on costs the rows that are idle while requests wait
(*waste*). A stop pays as soon as the waste of the run reaches the restart. Whatever the
lengths turn out to be, that costs at most twice as much as the best moment would have,
which is the bound of the ski-rental problem. A run without an idle row is never
stopped.

References:
    Karlin, Manasse, Rudolph, Sleator: *Competitive snoopy caching*, 1988 (ski rental).
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from ..engines.batches import PromptWork

PATIENCE = 8.0
"""A request waits for a free row for at most as long as this many stops take, measured
when the wait began and at the last stop, whether the next stop pays or not. This bound
costs at most an eighth of the time."""


@attrs.define
class _Mean:
    """A mean over about the last `WINDOW` values, in which an outlier counts less."""

    WINDOW = 32
    value: float = 0.0
    count: int = 0

    def note(self, value: float) -> None:
        if self.count >= 4:
            value = min(value, 4 * self.value)  # a pause of the machine, not a cost
        self.count = min(self.count + 1, self.WINDOW)
        self.value += (value - self.value) / self.count


@attrs.define
class _Split:
    """Least squares of ``seconds = a * x + b * y``, with *a* and *b* at least 0."""

    xx: float = 0.0
    xy: float = 0.0
    yy: float = 0.0
    xs: float = 0.0
    ys: float = 0.0

    def note(
        self, x: float, y: float, seconds: float, *, keep: float
    ) -> tuple[float, float]:
        """Add an equation, keep that weight of the others, and return *a* and *b*."""
        self.xx = keep * self.xx + x * x
        self.xy = keep * self.xy + x * y
        self.yy = keep * self.yy + y * y
        self.xs = keep * self.xs + x * seconds
        self.ys = keep * self.ys + y * seconds
        determinant = self.xx * self.yy - self.xy**2
        if determinant <= 1e-6 * self.xx * self.yy:
            return 0.0, self.ys / self.yy
        a = (self.yy * self.xs - self.xy * self.ys) / determinant
        b = (self.xx * self.ys - self.xy * self.xs) / determinant
        if a < 0:
            return 0.0, self.ys / self.yy
        if b < 0:
            return self.xs / self.xx, 0.0
        return a, b


@attrs.frozen
class Prefill:
    """The work for the prompts of one run."""

    tokens: int
    """Positions that the engine computes at once, including padding."""
    padding: int
    """Positions of `tokens` that hold padding."""
    fed: int
    """Tokens that decode steps feed, one for each step and row."""


def prefill_of(lengths: Sequence[int], work: PromptWork) -> Prefill:
    """Return the work for prompts of these *lengths* in one run."""
    total = sum(lengths)
    if not lengths or work is PromptWork.PACKED:
        return Prefill(total, 0, 0)
    if work is PromptWork.PADDED:
        padded = max(lengths) * len(lengths)
        return Prefill(padded, padded - total, 0)
    at_once = min(lengths) * len(lengths)
    return Prefill(at_once, 0, total - at_once)


class Costs:
    """The seconds that an engine's work takes, as measured so far; 0 before.

    The prefill of the first run is left out, because it includes the engine's warm-up.
    The first run may so be stopped too soon, but its warm-up never delays a stop.

    Args:
        max_rows: Rows of the engine's largest batch.
        work: Which positions the engine computes for prompts.
    """

    KEEP = 0.9
    """Weight of earlier prefills beside a new one."""

    def __init__(self, max_rows: int, work: PromptWork = PromptWork.PACKED) -> None:
        self._max_rows = max_rows
        self._work = work
        self._calls = 0
        self._steps: dict[int, _Mean] = {}
        self._prefill_s = 0.0
        self._prefill_tokens = 0.0
        self._whole = _Split()

    # ------------------------------------------------------------------- measurements

    def note_step(self, rows: int, seconds: float) -> None:
        """Record one decode step with *rows* live rows."""
        self._steps.setdefault(rows, _Mean()).note(seconds)

    def note_prefill(self, tokens: int, *, rows: int, seconds: float) -> None:
        """Record a run's first step: prompts of *tokens*, and one token for each row.

        The call alone takes as long as a step of as many rows; the rest of the time
        counts for the prompts.
        """
        self._calls += 1
        if self._calls > 1:
            self._note_tokens(tokens, max(seconds - self.step_s(rows), 0.0))

    def note_whole(self, tokens: int, *, steps: int, rows: int, seconds: float) -> None:
        """Record a run whose prefill and steps were measured together.

        Several runs with different shares of both separate the two. Until then all of
        the time counts for the steps.
        """
        self._calls += 1
        if self._calls == 2:  # the first run included the warm-up
            self._whole = _Split()
            self._steps.clear()
        token_s, step_s = self._whole.note(tokens, steps, seconds, keep=self.KEEP)
        self._note_tokens(tokens, tokens * token_s)
        self.note_step(rows, step_s)

    def _note_tokens(self, tokens: int, seconds: float) -> None:
        self._prefill_tokens = self.KEEP * self._prefill_tokens + tokens
        self._prefill_s = self.KEEP * self._prefill_s + seconds

    # -------------------------------------------------------------------- expectations

    def step_s(self, rows: int) -> float:
        """Return the seconds of a step with *rows* live rows.

        Interpolates between the measured numbers of rows, and beyond them returns the
        seconds of the nearest one.
        """
        below = max((seen for seen in self._steps if seen <= rows), default=None)
        above = min((seen for seen in self._steps if seen >= rows), default=None)
        if below is None or above is None:
            nearest = above if below is None else below
            return 0.0 if nearest is None else self._steps[nearest].value
        low, high = self._steps[below].value, self._steps[above].value
        if below == above:
            return low
        return low + (high - low) * (rows - below) / (above - below)

    @property
    def prefill_token_s(self) -> float:
        """Seconds of a prompt token, at most those of a step with one row."""
        if not self._prefill_tokens:
            return 0.0
        return min(self._prefill_s / self._prefill_tokens, self.step_s(1))

    @property
    def row_step_s(self) -> float:
        """A row's share of the seconds of a full batch's step."""
        return self.step_s(self._max_rows) / self._max_rows

    def waste_s(self, live_rows: int, seconds: float) -> float:
        """Return the seconds of a step beyond its rows' share of a full batch's step.

        An engine whose steps are faster with fewer live rows wastes less than its idle
        rows suggest, or nothing.
        """
        return max(seconds - live_rows * self.row_step_s, 0.0)

    def prefill_s(self, lengths: Sequence[int]) -> float:
        """Return the seconds of prompts of these *lengths* in one run."""
        prefill = prefill_of(lengths, self._work)
        # A row that is fed could decode instead.
        return prefill.tokens * self.prefill_token_s + prefill.fed * self.row_step_s

    def restart_s(self, survivors: Sequence[int], joining: Sequence[int]) -> float:
        """Return the seconds that a stop costs now.

        These are a step for the new call, the prefill of the survivors' tokens, and the
        positions that they add to the prompts of the others.

        Args:
            survivors: Prompt and new tokens of each live row.
            joining: Prompt lengths of the requests that would join them.
        """
        together = prefill_of([*survivors, *joining], self._work)
        alone = prefill_of(joining, self._work)
        at_once = max(together.tokens - alone.tokens, 0) * self.prefill_token_s
        # The steps that feed the survivors may serve no other row.
        rows = len(survivors)
        fed = max(together.fed - alone.fed, 0) * self.step_s(rows) / rows
        return self.step_s(self._max_rows) + at_once + fed


@attrs.frozen(kw_only=True)
class RunProgress:
    """A run under way, at a moment when a row is free and a request waits."""

    live_rows: int
    longest_left: int
    """Steps until the last live row ends at the latest."""
    waste_s: float
    """Waste since the run began, while requests waited."""
    waited_s: float
    """How long requests have waited for a free row."""
    patience_s: float
    """How long they wait at most."""
    restart_s: float
    """Seconds that a stop costs now."""


def pays_to_stop(run: RunProgress, costs: Costs) -> bool:
    """Return whether a run should be stopped for the requests that wait."""
    if run.restart_s <= 0:
        return False  # nothing was measured yet
    if run.longest_left * costs.step_s(run.live_rows) <= run.restart_s:
        return False  # it ends by itself before a stop could pay
    if run.waited_s >= run.patience_s:
        return True
    if run.longest_left * costs.waste_s(1, costs.step_s(1)) < run.restart_s:
        return False  # it can no longer waste as much as a stop costs
    return run.waste_s >= run.restart_s


def best_run_length(
    candidates: Sequence[int],
    *,
    lengths: Sequence[int],
    left: Sequence[int],
    costs: Costs,
) -> int:
    """Return the number of steps for a run that cannot be stopped on the way.

    It is the one with the most tokens a second, if every row goes on for as long as it
    may.

    Args:
        candidates: Numbers to choose from: the ends of rows, as the rate falls between.
        lengths: Tokens of each row when the run begins.
        left: New tokens that each row may have.
        costs: The costs measured so far.
    """

    def rate(steps: int) -> float:
        ends = sorted(min(each, steps) for each in left)
        seconds = costs.prefill_s(lengths)
        for live, (begin, end) in zip(
            range(len(ends), 0, -1), zip([0, *ends], ends, strict=False), strict=True
        ):
            seconds += (end - begin) * costs.step_s(live)
        survivors = [
            length + steps
            for length, each in zip(lengths, left, strict=True)
            if each > steps
        ]
        if survivors:
            seconds += costs.restart_s(survivors, ())
        return sum(ends) / seconds if seconds else float(steps)

    return max(candidates, key=lambda steps: (rate(steps), steps))
