# SPDX-License-Identifier: Apache-2.0

"""The plan of a measurement: the sides, the workload and the cases. Plain values."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from ..errors import ConfigError
from .costs import Price
from .figures import Slo
from .workloads import BATCH, OPEN, Case, Fixed, Workload


@attrs.frozen(kw_only=True)
class Side:
    """An engine in a process of its own, or a server."""

    label: str
    options: Mapping[str, Any] = attrs.field(factory=dict)
    """Options of `Generator`, ``backend`` among them, as JSON values."""
    python: str = sys.executable
    """Interpreter whose environment has unillm and the engine."""
    url: str | None = None
    """Base address of a server that speaks OpenAI's API, instead of an engine."""


@attrs.frozen(kw_only=True)
class Plan:
    """Everything that a measurement does.

    Attributes:
        model: Directory, hub id, or the bundled ``"unillm/tiny"``.
        sides: Measured in turn, each in every round.
        workload: Prompts and lengths.
        cases: Kinds of load.
        warmups: Rounds of each case that are not measured.
        rounds: Measured rounds of each case.
        seed: Draws prompts and arrivals, the same for all sides.
        slo: Latencies that a request must keep to count as goodput.
        one_after_another: Load a side only when the one before has ended, for engines
            that do not fit beside each other.
        price: What machine and builds cost; `None` leaves costs out.
        sweep: Double the rate of the last case until a side does not follow.
    """

    model: str
    sides: Sequence[Side]
    workload: Workload
    cases: Sequence[Case]
    warmups: int = 3
    rounds: int = 10
    seed: int = 0
    slo: Slo | None = None
    one_after_another: bool = False
    sweep: bool = False
    price: Price | None = None

    def __attrs_post_init__(self) -> None:
        """Refuse a plan that measures nothing, or nothing that costs follow from."""
        if not self.sides or not self.cases or self.rounds < 1:
            raise ConfigError(
                f"The plan has {len(self.sides)} sides, {len(self.cases)} cases and "
                f"{self.rounds} rounds. Each must be 1 or more."
            )
        if self.price is not None and all(case.kind == OPEN for case in self.cases):
            raise ConfigError(
                "The plan has a price, and only cases in which requests arrive at a "
                "rate. Their tokens a second are those of the arrivals, so no cost "
                "follows from them. Add a case in full use: --batch or --concurrency."
            )
        labels = [side.label for side in self.sides]
        if len(set(labels)) < len(labels):
            raise ConfigError(
                f"Two sides are the same: {', '.join(labels)}. Give each side other "
                "options."
            )


def article(batches: Sequence[int] = (1, 4, 8)) -> tuple[Workload, list[Case]]:
    """Return the preset ``article``: 128 tokens in, 100 out, batches of 1, 4 and 8."""
    cases = [Case(kind=BATCH, size=size, requests=size) for size in batches]
    return Fixed(prompt_tokens=128, output_tokens=100), cases
