# SPDX-License-Identifier: Apache-2.0

"""Frequencies of drawn tokens against the oracle's probabilities, of any requests.

Each draw has a distribution of its own. Its *place* makes them comparable: the
probability of all more probable tokens, plus a random share of the token's own. If
tokens are drawn as the oracle says, places are uniform in 0..1, whatever the requests
were. A chi-squared test compares their counts in `BINS` equal bins. Two more tests
count how often the best token was drawn, and how often the last one that the filters
keep, against the sums of their probabilities. All three are made for all draws and for
those of each group of fields. A draw that is nearly certain says nothing and is left
out.

References:
    Bennett: *Probability inequalities for the sum of independent random variables*,
    1962; Freedman: *On tail probabilities for martingales*, 1975 (the two counts).
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from typing import TYPE_CHECKING

import attrs
import numpy as np

from ...engines.aspects import uses

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ...engines.base import EngineRequest
    from .judging import Draw

    _Array = NDArray[np.float64]

ERROR_RATE = 1e-6
"""Probability at most that a correct engine fails a run, over all of its tests."""

BINS = 21
"""Odd, so that the distribution of chi-squared has a closed form."""

FEWEST = 50
"""Draws of a group that is tested."""

FEWEST_IN_BINS = 10 * BINS
"""Draws of a group whose bins are tested too."""

KEPT_REQUESTS = 4
"""Requests of a group that are kept, to show a fault with one of them."""

NARROW = 0.25
"""The place of a more probable token says too little of the random number to be
compared with another place. Narrow tokens are compared by their places among
themselves, which are uniform again, in two orders: an engine that looks its number up
in a sum of probabilities adds them by probability or by id."""

LAGS = (1, 2, 4, 8, 16)
"""Distances of draws in a completion whose places are compared."""

_TESTS = 3 * 51 * 20
"""More tests than a run makes: three in each of its groups, whenever its draws have
doubled."""

CERTAIN = 0.95
"""A draw whose best token is more probable is left out."""

_FIELDS = (
    "top_k",
    "top_p",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "logit_bias",
    "allowed_token_ids",
    "min_tokens",
    "bad_words",
)


@attrs.define
class _Count:
    """How often draws took a certain token, and how often they should."""

    seen: int = 0
    expected: float = 0.0
    variance: float = 0.0

    def add(self, taken: bool, probability: float) -> None:
        self.seen += taken
        self.expected += probability
        self.variance += probability * (1 - probability)

    def probability(self) -> float:
        """Return a bound on the probability of a count as far off as this one."""
        off = abs(self.seen - self.expected)
        if off < 1 or not self.variance:
            return 1.0
        ratio = off / self.variance
        exponent = self.variance * ((1 + ratio) * math.log1p(ratio) - ratio)
        return min(2 * math.exp(-min(exponent, 700.0)), 1.0)


@attrs.define
class Group:
    """The draws of one kind."""

    counts: list[int] = attrs.field(factory=lambda: [0] * BINS)
    best: _Count = attrs.field(factory=_Count)
    last: _Count = attrs.field(factory=_Count)
    requests: dict[str, EngineRequest] = attrs.field(factory=dict)
    """Some requests of the group, by id."""
    next_test: int = FEWEST

    @property
    def total(self) -> int:
        """Number of draws."""
        return sum(self.counts)

    def probability(self) -> float:
        """Return the smallest probability of the three tests."""
        found = min(self.best.probability(), self.last.probability())
        if self.total < FEWEST_IN_BINS:
            return found
        expected = self.total / BINS
        chi_squared = sum((count - expected) ** 2 for count in self.counts) / expected
        return min(found, _tail(chi_squared))


class Frequencies:
    """Counts the places of draws, in groups of fields."""

    def __init__(self) -> None:
        self.groups: dict[tuple[str, ...], Group] = {}
        self.draws = 0
        self._places: dict[tuple[str, int, int], float] = {}
        """By order, seed and position."""

    def add(self, draw: Draw) -> None:
        """Count a draw in each of its groups."""
        self.draws += 1
        probabilities = draw.probabilities
        best = int(probabilities.argmax())
        if probabilities[best] > CERTAIN:
            return
        place = _place(draw, probabilities)
        last = int(np.where(probabilities > 0, probabilities, np.inf).argmin())
        for key in _keys(draw):
            group = self._count(key, place, draw)
            group.best.add(draw.token_id == best, float(probabilities[best]))
            group.last.add(draw.token_id == last, float(probabilities[last]))
        if not 0 < probabilities[draw.token_id] <= NARROW:
            return
        narrow = np.where(probabilities > NARROW, 0.0, probabilities)
        narrow /= narrow.sum()
        seed, position = draw.request.seed, draw.position
        for order, place in (
            ("probability", _place(draw, narrow)),
            ("id", _place_by_id(draw, narrow)),
        ):
            self._places[order, seed, position] = place
            # Two independent places differ, modulo 1, by a place that is uniform too.
            for kind, near in _near(seed, position):
                other = self._places.get((order, *near))
                if other is not None:
                    key = (f"{kind} by {order}",)
                    self._count(key, (place - other) % 1.0, draw)

    def _count(self, key: tuple[str, ...], place: float, draw: Draw) -> Group:
        group = self.groups.setdefault(key, Group())
        group.counts[min(int(place * BINS), BINS - 1)] += 1
        if draw.position == 0 and len(group.requests) < KEPT_REQUESTS:
            group.requests[draw.request.request_id] = draw.request
        return group

    def uneven(self, *, all_groups: bool = False) -> tuple[str, ...] | None:
        """Return the smallest group whose draws are not as frequent as they should be.

        Args:
            all_groups: Test each group, not only those with twice as many draws as at
                their last test.
        """
        found = []
        for key, group in self.groups.items():
            if group.total >= (FEWEST if all_groups else group.next_test):
                group.next_test = 2 * group.total
                if group.probability() < ERROR_RATE / _TESTS:
                    found.append(key)
        return min(found, key=lambda key: (len(key), key), default=None)


def _place(draw: Draw, probabilities: _Array) -> float:
    """Return the place of a draw; of one at a filter's border, the last place."""
    own = probabilities[draw.token_id]
    before = probabilities[probabilities > own].sum()
    # Tokens of equal probability follow by id.
    same = np.flatnonzero(probabilities == own)
    before += own * int((same < draw.token_id).sum())
    return float(min(before + own * _share(draw), 1.0))


def _place_by_id(draw: Draw, probabilities: _Array) -> float:
    """Return the place of a draw where the tokens stand in the order of their ids."""
    before = probabilities[: draw.token_id].sum()
    return float(min(before + probabilities[draw.token_id] * _share(draw), 1.0))


def _share(draw: Draw) -> float:
    return random.Random(f"{draw.request.seed} {draw.position} place").random()


def _near(seed: int, position: int) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield the draws with which one is compared, by seed and position.

    Several completions of a prompt have neighbouring seeds.
    """
    for lag in LAGS:
        yield f"draws {lag} apart", (seed, position - lag)
    yield "neighbouring seeds", (seed - 1, position)


def _keys(draw: Draw) -> Iterator[tuple[str, ...]]:
    """Yield the groups of a draw: all, each field, each pair of filters."""
    params = draw.request.params
    used = [name for name in _FIELDS if uses(draw.request, name)]
    yield ()
    yield ("first token",) if draw.position == 0 else ("later tokens",)
    for name in used:
        yield (name,)
    filters = [name for name in used if name in ("top_k", "top_p", "min_p")]
    yield (f"temperature={params.temperature:g}",)
    if not filters:
        yield (f"temperature={params.temperature:g} and no filter",)
    yield from itertools.combinations(filters, 2)


def _tail(chi_squared: float) -> float:
    """Return the probability of a larger chi-squared with ``BINS - 1`` degrees.

    Their number is even, so it is a finite sum of a Poisson distribution.
    """
    half = chi_squared / 2
    terms = (half**k / math.factorial(k) for k in range((BINS - 1) // 2))
    return math.exp(-min(half, 700.0)) * sum(terms)
