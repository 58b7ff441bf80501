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
    """Price of the work on each build of an engine that needs builds."""
    builds_per_month: float = 0.0
    """Builds for new versions, models, adapters and limits."""
    requests_per_day: float | None = None
    """Expected traffic; `None` leaves the monthly bill out."""

    def __attrs_post_init__(self) -> None:
        """Refuse amounts that cannot be."""
        least = min(self.per_build, self.builds_per_month, self.requests_per_day or 0)
        if self.per_hour <= 0 or least < 0:
            raise ConfigError(
                f"The price is {self.per_hour:g} an hour, {self.per_build:g} a build, "
                f"{self.builds_per_month:g} builds a month, for "
                f"{self.requests_per_day or 0:g} requests a day. The hour must cost "
                "more than 0, and nothing may be negative."
            )


@attrs.frozen(kw_only=True)
class Rate:
    """Speed of one machine with one engine, and what its builds take."""

    tokens_per_s: float
    """Output tokens a second, of the machine in full use."""
    tokens_per_request: float
    is_built: bool = False
    """Whether the engine needs builds."""
    build_s: float = 0.0
    """Machine time of a build."""

    def fixed_per_month(self, price: Price) -> float:
        """Return what the builds of a month cost."""
        if not self.is_built:
            return 0.0
        machine = price.per_hour / 3600 * self.build_s
        return price.builds_per_month * (price.per_build + machine)

    def per_million(self, price: Price) -> float:
        """Return the cost of a million output tokens on a machine in full use."""
        return cost_per_million(price.per_hour, self.tokens_per_s)

    def monthly_bill(self, price: Price) -> float | None:
        """Return the cost of a month in whole machines; `None` without a traffic."""
        if price.requests_per_day is None:
            return None
        needed = price.requests_per_day * self.tokens_per_request / 86400
        machines = max(1, math.ceil(needed / self.tokens_per_s))
        bill = machines * price.per_hour * HOURS_A_MONTH
        return bill + self.fixed_per_month(price)


@attrs.frozen(kw_only=True)
class BreakEven:
    """The traffic from which a faster engine is cheaper than a slower one."""

    saving_per_million: float
    """Saving on a million output tokens."""
    fixed_per_month: float
    """Extra cost of the faster engine, whatever the traffic; negative if less."""
    tokens_per_month: float
    """0 if the faster engine pays at once."""
    requests_per_day: float
    machines: float
    """Machines in full use that the slower engine needs for this traffic. Below 1, the
    faster engine saves nothing unless the machine has other work."""


def cost_per_million(price_per_hour: float, tokens_per_s: float) -> float:
    """Return the cost of a million output tokens on a machine in full use."""
    return price_per_hour / 3600 / tokens_per_s * 1e6


def break_even(slower: Rate, faster: Rate, price: Price) -> BreakEven:
    """Return from which traffic the faster engine pays.

    Both machines have the same price and are in full use.

    Raises:
        ConfigError: *faster* is not.
    """
    saving = slower.per_million(price) - faster.per_million(price)
    if saving <= 0:
        raise ConfigError(
            f"The faster engine has {faster.tokens_per_s:g} tokens/s and the slower "
            f"one {slower.tokens_per_s:g}. The order must be the other one."
        )
    fixed = faster.fixed_per_month(price) - slower.fixed_per_month(price)
    tokens = max(0.0, fixed / saving * 1e6)
    return BreakEven(
        saving_per_million=saving,
        fixed_per_month=fixed,
        tokens_per_month=tokens,
        requests_per_day=tokens / slower.tokens_per_request / DAYS_A_MONTH,
        machines=tokens / slower.tokens_per_s / 3600 / HOURS_A_MONTH,
    )


def tokens_to_catch_up(first: Rate, second: Rate, *, late_s: float) -> float | None:
    """Return after how many tokens the second engine has caught up with the first.

    Args:
        first: The engine that is ready.
        second: The engine that is ready *late_s* seconds later, after its build.
        late_s: Negative if it is ready sooner.

    Returns:
        `None` if it never catches up, 0 if it is ahead from the start.
    """
    gain = 1 / first.tokens_per_s - 1 / second.tokens_per_s
    return None if gain <= 0 else max(0.0, late_s / gain)
