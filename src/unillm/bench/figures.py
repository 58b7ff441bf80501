# SPDX-License-Identifier: Apache-2.0

"""Figures of the rounds of one case, each with the bound that it cannot pass.

Pure arithmetic on samples.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence

import attrs

from .roofline import Floor
from .samples import Run, Sample
from .statistics import Spread, percentile
from .tokens import Counting
from .workloads import OPEN, Ask, Case

PERCENTILES = (50, 90, 99)


@attrs.frozen(kw_only=True)
class Slo:
    """The latencies that a request must keep to count as goodput, in seconds."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None


@attrs.frozen(kw_only=True)
class Figure:
    """One figure over all rounds."""

    name: str
    unit: str
    spread: Spread
    values: Sequence[float]
    """One a round."""
    more_is_better: bool
    bound: float | None = None
    """The largest value that the device allows, or the smallest if less is better;
    `None` where no bound is known. If rounds have other lengths, the most generous."""
    bounds: Sequence[float] = ()
    """One a round; empty where no bound is known."""

    @property
    def share(self) -> float | None:
        """The median of the rounds as shares of their bounds.

        Reports of older versions have one bound for all rounds.
        """
        shares = self.shares
        if shares:
            return percentile(shares, 50)
        if not self.bound or not self.spread.median:
            return None
        return self._share(self.spread.median, self.bound)

    @property
    def shares(self) -> list[float]:
        """Each round as a share of its own bound, at most 1 for a true figure."""
        return [
            self._share(value, bound)
            for value, bound in zip(self.values, self.bounds, strict=False)
            if value and bound
        ]

    def _share(self, value: float, bound: float) -> float:
        return value / bound if self.more_is_better else bound / value


@attrs.frozen(kw_only=True)
class Round:
    """A run with its asks and its floor."""

    run: Run
    asks: Sequence[Ask]
    floor: Floor | None
    """`None` where the model's bytes or the device are unknown."""


def figures_of(
    case: Case, rounds: Sequence[Round], counting: Counting, slo: Slo | None
) -> list[Figure]:
    """Return the figures of a case; requests that failed count as nothing."""
    found = [
        _figure(
            "output",
            "tokens/s",
            rounds,
            lambda r: counting.total(r.run.samples) / r.run.seconds,
            more_is_better=True,
            bound=lambda r, floor: sum(a.max_tokens for a in r.asks) / floor.run_s,
        ),
        _figure(
            "input",
            "tokens/s",
            rounds,
            lambda r: _prompt_tokens(r.run.samples) / r.run.seconds,
            more_is_better=True,
            bound=lambda r, floor: _prompt_tokens(r.run.samples) / floor.run_s,
        ),
        _figure(
            "requests",
            "/s",
            rounds,
            lambda r: len(_good(r.run)) / r.run.seconds,
            more_is_better=True,
            bound=lambda r, floor: len(r.asks) / floor.run_s,
        ),
        _figure(
            "round",
            "s",
            rounds,
            lambda r: r.run.seconds,
            bound=lambda _, floor: floor.run_s,
        ),
    ]
    for name, (values, bound) in LATENCIES.items():
        if all(values(r.run.samples) for r in rounds):
            found += [
                _figure(
                    f"{name} p{share}",
                    "s",
                    rounds,
                    functools.partial(_percentile, values, share),
                    bound=bound,
                )
                for share in PERCENTILES
            ]
    if slo is not None:
        found.append(
            _figure(
                "goodput",
                "/s",
                rounds,
                lambda r: sum(keeps(s, slo) for s in _good(r.run)) / r.run.seconds,
                more_is_better=True,
                bound=lambda r, floor: len(r.asks) / floor.run_s,
            )
        )
    found += _of_processes(rounds)
    if case.kind == OPEN:
        found.append(_figure("late start p99", "s", rounds, lateness))
    return found


def _of_processes(rounds: Sequence[Round]) -> list[Figure]:
    found = []
    if all(r.run.client_cpu_s is None for r in rounds):  # a server's are not seen
        found.append(_figure("cpu", "s", rounds, lambda r: r.run.cpu_s))
    if all(r.run.energy_j is not None for r in rounds):
        found.append(_figure("energy", "J", rounds, lambda r: r.run.energy_j or 0.0))
    if all(s.slot is not None for r in rounds for s in r.run.samples):
        found.append(_figure("slot use", "", rounds, _slot_use, more_is_better=True))
        found.append(
            _figure(
                "padding",
                "positions",
                rounds,
                lambda r: sum(s.padding for s in r.run.samples),
            )
        )
    return found


def _figure(
    name: str,
    unit: str,
    rounds: Sequence[Round],
    value: Callable[[Round], float],
    *,
    more_is_better: bool = False,
    bound: Callable[[Round, Floor], float] | None = None,
) -> Figure:
    values = [value(each) for each in rounds]
    bounds = [
        bound(each, each.floor)
        for each in rounds
        if bound is not None and each.floor is not None
    ]
    # The floors of a side are known for all rounds, or for none.
    extreme = max if more_is_better else min
    return Figure(
        name=name,
        unit=unit,
        spread=Spread.of(values),
        values=values,
        more_is_better=more_is_better,
        bound=extreme(bounds) if bounds else None,
        bounds=bounds,
    )


# ------------------------------------------------------------------- times of requests


def ttfts(samples: Iterable[Sample]) -> list[float]:
    """Return the seconds from each request to its first token."""
    return [s.first_s - s.sent_s for s in samples if s.first_s is not None]


def tpots(samples: Iterable[Sample]) -> list[float]:
    """Return the mean seconds between the tokens of each request that has two."""
    return [
        (s.last_s - s.first_s) / (s.reported_tokens - 1)
        for s in samples
        if s.first_s is not None and s.last_s is not None and s.reported_tokens > 1
    ]


def gaps(samples: Iterable[Sample]) -> list[float]:
    """Return the seconds between successive tokens of all streams."""
    return [gap for sample in samples for gap in sample.gaps]


def latencies(samples: Iterable[Sample]) -> list[float]:
    """Return the seconds from each request to its last token."""
    return [s.last_s - s.sent_s for s in samples if s.last_s is not None]


def _percentile(
    values: Callable[[Iterable[Sample]], list[float]], share: float, each: Round
) -> float:
    return percentile(values(each.run.samples), share)


LATENCIES: Mapping[
    str,
    tuple[
        Callable[[Iterable[Sample]], list[float]],
        Callable[[Round, Floor], float] | None,
    ],
] = {
    "ttft": (ttfts, lambda _, floor: floor.first_token_s),
    "tpot": (tpots, lambda _, floor: floor.step_s),
    "itl": (gaps, None),
    "e2e": (latencies, None),
}
"""Latencies by name, each with its bound."""


def lateness(each: Round) -> float:
    """Return how late the requests of an open loop were sent: the 99th percentile."""
    late = [
        sample.sent_s - (ask.at_s or 0.0)
        for sample, ask in zip(each.run.samples, each.asks, strict=True)
    ]
    return percentile(late, 99)


def keeps(sample: Sample, slo: Slo) -> bool:
    """Whether a request kept all latencies of an objective; unknown ones are not."""
    if sample.first_s is None or sample.last_s is None:
        return False
    limits = (
        (slo.ttft_s, ttfts([sample])),
        (slo.tpot_s, tpots([sample])),
        (slo.e2e_s, latencies([sample])),
    )
    return all(
        limit is None or all(value <= limit for value in values)
        for limit, values in limits
    )


def _slot_use(each: Round) -> float:
    """Return the share of rows that were in use, over the steps of the round.

    A run of `n` rows takes as many steps as its longest request; the steps of all rows
    are all requests' own.
    """
    steps = [sample.decode_steps for sample in each.run.samples]
    slots = {sample.slot for sample in each.run.samples}
    per_slot: dict[int | None, int] = {}
    for sample in each.run.samples:
        per_slot[sample.slot] = per_slot.get(sample.slot, 0) + sample.decode_steps
    longest = max(per_slot.values())
    return sum(steps) / (longest * len(slots)) if longest else 1.0


def _good(run: Run) -> list[Sample]:
    return [sample for sample in run.samples if sample.error is None]


def _prompt_tokens(samples: Iterable[Sample]) -> int:
    """Return the computed prompt tokens; those from a cache do not count."""
    return sum((s.num_prompt_tokens or 0) - s.num_cached_tokens for s in samples)
