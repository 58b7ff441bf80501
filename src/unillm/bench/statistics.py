# SPDX-License-Identifier: Apache-2.0

"""Medians, their intervals and paired ratios, whatever the distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs

CONFIDENCE = 0.95


@attrs.frozen(kw_only=True)
class Spread:
    """A median of several values, with its interval."""

    median: float
    low: float
    high: float
    smallest: float
    largest: float
    count: int
    confidence: float
    """Probability that the interval holds the median of all possible rounds. Few values
    do not reach `CONFIDENCE`; then the interval is the whole range."""

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of one value or more.

        The interval lies between two of the sorted values: the number of values below
        the true median has a binomial distribution of one half.
        """
        ordered = sorted(values)
        count = len(ordered)
        at = 0
        while at + 1 < count - at - 2 and _coverage(count, at + 1) >= CONFIDENCE:
            at += 1
        return cls(
            median=percentile(ordered, 50),
            low=ordered[at],
            high=ordered[count - 1 - at],
            smallest=ordered[0],
            largest=ordered[-1],
            count=count,
            confidence=_coverage(count, at),
        )


def _coverage(count: int, at: int) -> float:
    """Return how probably the median lies between two values, *at* from each end."""
    tail: float = sum(math.comb(count, k) for k in range(at + 1)) / 2**count
    return max(0.0, 1 - 2 * tail)


def percentile(values: Sequence[float], share: float) -> float:
    """Return a percentile of values, linear between two of them."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * share / 100
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def rounded(value: float) -> str:
    """Return a number as text with three digits that count, and without an exponent."""
    short = float(f"{value:.3g}")
    return f"{short:,.0f}" if abs(short) >= 100 else f"{short:g}"


def paired_ratio(ones: Sequence[float], others: Sequence[float]) -> Spread:
    """Return the spread of the ratios *other* to *one*, round by round."""
    return Spread.of([b / a for a, b in zip(ones, others, strict=True)])


def decision(ratio: Spread) -> str:
    """Return "higher", "lower" or "tie" by whether the interval holds 1."""
    if ratio.confidence < CONFIDENCE or ratio.low <= 1 <= ratio.high:
        return "tie"
    return "higher" if ratio.low > 1 else "lower"
