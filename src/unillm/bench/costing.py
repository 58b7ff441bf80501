# SPDX-License-Identifier: Apache-2.0

"""The costs of measured cases, and how break-even moves. Plain values."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import attrs

from .costs import BreakEven, Price, Rate, break_even
from .lines import Ready
from .results import Result
from .statistics import decision, paired_ratio
from .workloads import OPEN

FACTORS = (0.5, 1.0, 2.0)
"""Prices and lengths beside the given ones."""


@attrs.frozen(kw_only=True)
class SideCost:
    """Cost of one side on one case."""

    side: str
    case: str
    per_million: float
    """Cost of a million output tokens."""
    monthly_bill: float | None
    """In whole machines; `None` without a traffic."""


@attrs.frozen(kw_only=True)
class Moved:
    """Break-even of two sides on one case, at one price and one length."""

    case: str
    slower: str
    faster: str
    price_factor: float
    length_factor: float
    """New tokens of a request; tokens a second are taken as unchanged."""
    break_even: BreakEven


@attrs.frozen(kw_only=True)
class Costs:
    """Costs of the valid cases of a report in which the machine is in full use."""

    price: Price
    sides: Sequence[SideCost]
    moved: Sequence[Moved]


def rate_of(result: Result, ready: Ready) -> Rate:
    """Return the rate of a measured case; all requests count alike."""
    output, requests = result.figure("output"), result.figure("requests")
    assert output is not None
    assert requests is not None
    return Rate(
        tokens_per_s=output.spread.median,
        tokens_per_request=output.spread.median / requests.spread.median,
        is_built=ready.build_s is not None,
        build_s=ready.build_s or 0.0,
    )


def costs_of(
    results: Sequence[Result], readies: dict[str, Ready], price: Price
) -> Costs:
    """Return the costs of the valid cases on machines in full use.

    Requests that arrive at a rate leave a machine idle, or queue up: the tokens a
    second of such a case are those of the arrivals, and it has no costs.

    Args:
        results: Cases of all sides.
        readies: The loaded engine of each side.
        price: The caller's.
    """
    rates: dict[str, dict[str, Rate]] = {}
    for result in results:
        if result.is_valid and result.case.kind != OPEN:
            rate = rate_of(result, readies[result.side])
            rates.setdefault(result.case.name, {})[result.side] = rate
    return Costs(
        price=price,
        sides=[
            SideCost(
                side=side,
                case=case,
                per_million=rate.per_million(price),
                monthly_bill=rate.monthly_bill(price),
            )
            for case, sides in rates.items()
            for side, rate in sides.items()
        ],
        moved=[
            moved
            for moved in _moved(rates, price)
            if _differ(results, moved.case, moved.slower, moved.faster)
        ],
    )


def _moved(rates: dict[str, dict[str, Rate]], price: Price) -> Iterator[Moved]:
    for case, sides in rates.items():
        ordered = sorted(sides, key=lambda side: sides[side].tokens_per_s)
        for slower, faster in itertools.pairwise(ordered):
            if sides[slower].tokens_per_s == sides[faster].tokens_per_s:
                continue
            for of_price, of_length in _factors():
                first, second = (
                    attrs.evolve(
                        sides[side],
                        tokens_per_request=sides[side].tokens_per_request * of_length,
                    )
                    for side in (slower, faster)
                )
                dearer = attrs.evolve(price, per_hour=price.per_hour * of_price)
                yield Moved(
                    case=case,
                    slower=slower,
                    faster=faster,
                    price_factor=of_price,
                    length_factor=of_length,
                    break_even=break_even(first, second, dearer),
                )


def _differ(results: Sequence[Result], case: str, one: str, other: str) -> bool:
    """Whether a case shows that one side is faster, and not chance."""
    output = {
        result.side: result.figure("output")
        for result in results
        if result.case.name == case
    }
    first, second = output[one], output[other]
    assert first is not None
    assert second is not None
    return decision(paired_ratio(first.values, second.values)) != "tie"


def _factors() -> Iterator[tuple[float, float]]:
    """Yield the factors of price and length: one of them moves at a time."""
    yield 1.0, 1.0
    for factor in FACTORS:
        if factor != 1.0:
            yield factor, 1.0
            yield 1.0, factor
