# SPDX-License-Identifier: Apache-2.0

"""When a run of a static batch is stopped for those who wait: functions of numbers.

No request, no engine and no clock in here. Times are in seconds of whoever measures
them; what matters are their ratios.

A stop costs the next run's prefill of what the survivors had already computed
(*restart*). Going on costs the rows that stand idle while requests wait (*waste*). A
run is stopped when its waste has paid for the stop. Whatever the lengths turn out to
be, that is at most twice what the best moment would have cost, which is the bound of
the ski-rental problem; and a run in which no row is idle is never stopped.

References:
    Karlin, Manasse, Rudolph, Sleator: *Competitive snoopy caching*, 1988 (ski rental).
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from ..engines.batches import PromptWork

PATIENCE = 8.0
"""Requests wait for a row that is free no longer than this many stops would have taken
when they began to wait, nor than this many of the last stop, whether the next one pays
or not. So it costs at most an eighth of the time that nobody waits for ever."""


@attrs.define
class _Mean:
    """A mean over about the last `WINDOW` values; one that is far out counts less."""

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
    """Least squares of ``seconds = a * x + b * y`` with nothing negative."""

    xx: float = 0.0
    xy: float = 0.0
    yy: float = 0.0
    xs: float = 0.0
    ys: float = 0.0

    def note(
        self, x: float, y: float, seconds: float, *, keep: float
    ) -> tuple[float, float]:
        """Take one more equation; return *a* and *b*."""
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


class Costs:
    """What a step and a prompt token take, learned from what was measured.

    What was not measured costs nothing. An engine's first call warms it up, so what its
    prompts took is not taken for a measurement, and a first run may be stopped too soon
    but is never held for what only the first one costs.
    """

    KEEP = 0.9
    """Weight of what was known of prompts, when something new is learned."""

    def __init__(self) -> None:
        self._calls = 0
        self._steps: dict[int, _Mean] = {}
        self._prefill_s = 0.0
        self._prefill_tokens = 0.0
        self._whole = _Split()

    def note_step(self, rows: int, seconds: float) -> None:
        """Take notice of one decode step with *rows* live rows."""
        self._steps.setdefault(rows, _Mean()).note(seconds)

    def note_prefill(self, tokens: int, *, rows: int, seconds: float) -> None:
        """Take notice of a run's beginning: its prompts and the first token of *rows*.

        The call itself takes a step of as many rows, however short the prompts are;
        their tokens take what is beyond that.
        """
        self._calls += 1
        if self._calls > 1:
            self._note_tokens(tokens, max(seconds - self.step_s(rows), 0.0))

    def note_whole(self, tokens: int, *, steps: int, rows: int, seconds: float) -> None:
        """Take notice of a prefill and steps that were told of together.

        Which took how much follows from several of them with other shares of both; the
        first is taken for steps alone, until there is another one.
        """
        self._calls += 1
        if self._calls == 2:  # the first one warmed the engine up
            self._whole = _Split()
            self._steps.clear()
        token_s, step_s = self._whole.note(tokens, steps, seconds, keep=self.KEEP)
        self._note_tokens(tokens, tokens * token_s)
        self.note_step(rows, step_s)

    def step_s(self, rows: int) -> float:
        """Return what a step with *rows* live rows takes.

        Between counts that were seen it is interpolated; beyond them it is that of the
        nearest count.
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
        """What a prompt token takes, no more than to decode it alone would."""
        if not self._prefill_tokens:
            return 0.0
        return min(self._prefill_s / self._prefill_tokens, self.step_s(1))

    def _note_tokens(self, tokens: int, seconds: float) -> None:
        self._prefill_tokens = self.KEEP * self._prefill_tokens + tokens
        self._prefill_s = self.KEEP * self._prefill_s + seconds


@attrs.frozen
class Prefill:
    """The work of the prompts of one run."""

    tokens: int
    """Computed at once, padding among them."""
    padding: int
    """Of those, positions that are no token."""
    fed: int
    """Tokens that go in with decode steps, one a step and row."""

    def seconds(self, costs: Costs, *, max_rows: int) -> float:
        """Return what it takes. A row that is fed could have decoded instead."""
        row_step_s = costs.step_s(max_rows) / max_rows
        return self.tokens * costs.prefill_token_s + self.fed * row_step_s


def prefill_of(lengths: Sequence[int], work: PromptWork) -> Prefill:
    """Return the work of prompts of these *lengths* in one run."""
    total = sum(lengths)
    if not lengths or work is PromptWork.PACKED:
        return Prefill(total, 0, 0)
    if work is PromptWork.PADDED:
        padded = max(lengths) * len(lengths)
        return Prefill(padded, padded - total, 0)
    at_once = min(lengths) * len(lengths)
    return Prefill(at_once, 0, total - at_once)


def restart_s(
    survivors: Sequence[int],
    joining: Sequence[int],
    *,
    work: PromptWork,
    costs: Costs,
    max_rows: int,
) -> float:
    """Return what stopping now costs: the prefill that would not be needed otherwise.

    Args:
        survivors: Tokens of each live row, prompt and generated.
        joining: Prompt lengths of the requests that would join them.
        work: How the engine computes prompts.
        costs: What was learned of the engine.
        max_rows: Rows of its largest batch.

    Returns:
        What it takes, in seconds. That is a step for the call itself, the survivors'
        tokens, and what they make the others' prompts cost in addition.
    """
    together = prefill_of([*survivors, *joining], work)
    alone = prefill_of(joining, work)
    at_once = max(together.tokens - alone.tokens, 0) * costs.prefill_token_s
    fed = max(together.fed - alone.fed, 0)
    # What is fed may find nobody to share its steps with.
    rows = len(survivors)
    return costs.step_s(max_rows) + at_once + fed * costs.step_s(rows) / rows


def step_waste_s(
    live_rows: int, *, seconds: float, costs: Costs, max_rows: int
) -> float:
    """Return what a step took beyond its tokens' share of a step of a full batch.

    An engine whose step gets cheaper with fewer live rows wastes less than its idle
    rows suggest, or nothing.
    """
    return max(seconds - live_rows * costs.step_s(max_rows) / max_rows, 0.0)


@attrs.frozen(kw_only=True)
class RunProgress:
    """A run under way, at a moment when a row is free and somebody waits."""

    live_rows: int
    longest_left: int
    """Steps until the last live row ends at the latest."""
    waste_s: float
    """Gathered while requests waited, since the run began."""
    waited_s: float
    """Since requests wait for a row that is free."""
    patience_s: float
    """How long they are to wait at most."""
    restart_s: float
    """What stopping now costs."""


def pays_to_stop(run: RunProgress, *, costs: Costs, max_rows: int) -> bool:
    """Say whether a run is to be stopped for those who wait.

    Args:
        run: Where it is.
        costs: What was learned of the engine.
        max_rows: Rows of its largest batch.
    """
    if run.restart_s <= 0:
        return False  # nothing was measured yet
    if run.longest_left * costs.step_s(run.live_rows) <= run.restart_s:
        return False  # it ends by itself before a stop could pay
    if run.waited_s >= run.patience_s:
        return True
    most_a_step = step_waste_s(
        1, seconds=costs.step_s(1), costs=costs, max_rows=max_rows
    )
    if run.longest_left * most_a_step < run.restart_s:
        return False  # it cannot waste any more what a stop costs
    return run.waste_s >= run.restart_s


def best_run_length(
    candidates: Sequence[int],
    *,
    lengths: Sequence[int],
    left: Sequence[int],
    work: PromptWork,
    costs: Costs,
    max_rows: int,
) -> int:
    """Return after how many steps to end a run that cannot be stopped on the way.

    The one with the most tokens a second, if every row went on for as long as it may.

    Args:
        candidates: Steps to choose from; the ends of rows, as the rate falls between.
        lengths: Tokens of each row when the run begins.
        left: New tokens that each row may get.
        work: How the engine computes prompts.
        costs: What was learned of the engine.
        max_rows: Rows of its largest batch.
    """

    def rate(steps: int) -> float:
        tokens = sum(min(each, steps) for each in left)
        survivors = [
            length + steps
            for length, each in zip(lengths, left, strict=True)
            if each > steps
        ]
        seconds = prefill_of(lengths, work).seconds(costs, max_rows=max_rows)
        ends = sorted(min(each, steps) for each in left)
        for live, (begin, end) in zip(
            range(len(ends), 0, -1), zip([0, *ends], ends, strict=False), strict=True
        ):
            seconds += (end - begin) * costs.step_s(live)
        if survivors:
            seconds += restart_s(
                survivors, (), work=work, costs=costs, max_rows=max_rows
            )
        return tokens / seconds if seconds else float(steps)

    return max(candidates, key=lambda steps: (rate(steps), steps))
