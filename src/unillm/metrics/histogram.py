# SPDX-License-Identifier: Apache-2.0

"""`Histogram`: how often values fell into each of a few ranges."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import accumulate

FINE = (0.001, 0.0025, 0.005, 0.0075)
"""Bounds below 10 ms, which vLLM's buckets lack."""

FIRST_TOKEN_S = (
    *FINE,
    *(0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
BETWEEN_TOKENS_S = (
    *FINE,
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0),
    *(7.5, 10.0, 20.0, 40.0, 80.0),
)
REQUEST_S = (
    *(0.01, 0.025, 0.05, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0),
    *(20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
COUNTS = tuple(float(step * 10**power) for power in range(6) for step in (1, 2, 5))
"""Upper bounds of the buckets: vLLM's, with finer ones at the lower end."""


class Histogram:
    """Counts of values in ranges.

    One thread writes. A reader in another thread may see a value in its bucket before
    it is in the sum.

    Args:
        bounds: Upper bounds of the ranges, ascending; a last range has none.

    Attributes:
        total: Sum of the values.
    """

    def __init__(self, bounds: Iterable[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value, or several equal ones."""
        self._counts[bisect_left(self._bounds, value)] += times
        self.total += value * times

    def buckets(self) -> Iterator[tuple[str, float]]:
        """Yield each upper bound and how many values are not above it."""
        labels = [*map(str, self._bounds), "+Inf"]
        return zip(labels, map(float, accumulate(list(self._counts))), strict=True)
