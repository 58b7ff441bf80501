# SPDX-License-Identifier: Apache-2.0

"""Cost of tokens, and the traffic from which a faster engine pays. Pure arithmetic.

Prices are the caller's; there is no default. Money has no currency here: all amounts
have that of the price.
"""

from __future__ import annotations

import math

import attrs

from ..errors import ConfigError

HOURS_A_MONTH = 365.25 * 24 / 12
DAYS_A_MONTH = 365.25 / 12


@attrs.frozen(kw_only=True)
class Price:
    """Prices of the machine and of the work on builds."""

    per_hour: float
    """Price of the machine that gave the figures."""
    per_build: float = 0.0
    """Price of the work on each build of the engine that needs builds."""
    builds_per_month: float = 0.0
    """For new versions, models, adapters and limits."""
    requests_per_day: float | None = None
    """Expected traffic; `None` leaves the monthly bill out."""

    def __attrs_post_init__(self) -> None:
        """Refuse amounts that cannot be."""
        if self.per_hour <= 0 or min(self.per_build, self.builds_per_month) < 0:
            raise ConfigError(
                f"The price is {self.per_hour:g} an hour, {self.per_build:g} a build, "
                f"{self.builds_per_month:g} builds a month. The hour must cost more "
                "than 0, and nothing may be negative."
            )


@attrs.frozen(kw_only=True)
class Rate:
    """Speed of one machine with one engine."""

    tokens_per_s: float
    """Output tokens a second, of the machine in full use."""
    tokens_per_request: float
    setup_s: float = 0.0
    """Machine time of a build and a start."""


@attrs.frozen(kw_only=True)
class BreakEven:
    """The traffic from which the second engine is cheaper than the first."""

    saving_per_million: float
    """Saving on a million output tokens; negative if the second engine costs more."""
    fixed_per_month: float
    """Extra cost of the second engine, whatever the traffic."""
    tokens_per_month: float | None
    """`None` if it never pays; 0 if it pays at once."""
    requests_per_day: float | None
    machines_per_month: float | None
    """Machines in full use on the first engine, at this traffic."""


def cost_per_million(price_per_hour: float, tokens_per_s: float) -> float:
    """Return the cost of a million output tokens on a machine in full use."""
    return price_per_hour / 3600 / tokens_per_s * 1e6


def break_even(first: Rate, second: Rate, price: Price) -> BreakEven:
    """Return from which traffic the second engine pays.

    Both machines have the same price and are in full use. The second engine alone is
    built; each build costs a person's work and the machine's time.
    """
    saving = cost_per_million(price.per_hour, first.tokens_per_s) - cost_per_million(
        price.per_hour, second.tokens_per_s
    )
    machine = price.per_hour / 3600 * (second.setup_s - first.setup_s)
    fixed = price.builds_per_month * (price.per_build + machine)
    if saving <= 0:
        tokens = 0.0 if saving == 0 > fixed else None
    else:
        tokens = max(0.0, fixed / saving * 1e6)
    return BreakEven(
        saving_per_million=saving,
        fixed_per_month=fixed,
        tokens_per_month=tokens,
        requests_per_day=None
        if tokens is None
        else tokens / first.tokens_per_request / DAYS_A_MONTH,
        machines_per_month=None
        if tokens is None
        else tokens / first.tokens_per_s / 3600 / HOURS_A_MONTH,
    )


def monthly_bill(rate: Rate, price: Price, *, builds: bool) -> float | None:
    """Return the cost of a month in whole machines; `None` without a traffic.

    Args:
        rate: What one machine does.
        price: Prices and traffic.
        builds: Whether the engine is the one that needs builds.
    """
    if price.requests_per_day is None:
        return None
    needed = price.requests_per_day * rate.tokens_per_request / 86400
    machines = max(1, math.ceil(needed / rate.tokens_per_s))
    bill = machines * price.per_hour * HOURS_A_MONTH
    if builds:
        machine = price.per_hour / 3600 * rate.setup_s
        bill += price.builds_per_month * (price.per_build + machine)
    return bill


def tokens_to_catch_up(first: Rate, second: Rate) -> float | None:
    """Return after how many tokens the second engine has caught up with the first.

    Both start at the same time. `None` if it never catches up, 0 if it starts sooner.
    """
    late = second.setup_s - first.setup_s
    gain = 1 / first.tokens_per_s - 1 / second.tokens_per_s
    if gain <= 0:
        return None
    return max(0.0, late / gain)
