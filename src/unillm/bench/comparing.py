# SPDX-License-Identifier: Apache-2.0

"""Two reports compared: another version, machine or day. Pure values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import attrs

from ..errors import ConfigError
from .figures import Figure
from .report import Report
from .results import Result
from .statistics import CONFIDENCE, Spread

COMPARED = ("output", "requests", "ttft p50", "tpot p50", "e2e p50", "goodput", "cpu")


@attrs.frozen(kw_only=True)
class Change:
    """One figure in two reports."""

    side: str
    case: str
    figure: str
    unit: str
    before: Spread
    after: Spread
    verdict: str
    """"better", "worse", "tie", or "INVALID" if a report marks the case so."""

    @property
    def ratio(self) -> float:
        """The later median by the earlier one."""
        return self.after.median / self.before.median if self.before.median else 0.0

    def as_json(self) -> dict[str, Any]:
        """Return the change with its ratio as JSON values."""
        return {**attrs.asdict(self), "ratio": self.ratio}


def compare_reports(before: Report, after: Report) -> list[Change]:
    """Compare the sides and cases that two reports share.

    The rounds of two reports are no pairs, so a difference counts only where the two
    intervals do not touch.

    Raises:
        ConfigError: The reports share no side and case, or had other work.
    """
    if before.conditions["workload"] != after.conditions["workload"]:
        raise ConfigError(
            f"The workloads differ: {before.conditions['workload']} and "
            f"{after.conditions['workload']}. Measure both with the same."
        )
    pairs = list(_shared(before, after))
    if not pairs:
        raise ConfigError(
            "The reports share no case of one side: "
            f"{', '.join(_names(before))}; and {', '.join(_names(after))}."
        )
    names = [
        name
        for name in COMPARED
        if name != "goodput"  # it counts what keeps the objective
        or before.conditions.get("slo") == after.conditions.get("slo")
    ]
    return [change for pair in pairs for change in _changes(*pair, names)]


def _shared(before: Report, after: Report) -> Iterator[tuple[Result, Result]]:
    single = len(before.sides) == len(after.sides) == 1  # two versions of one side
    for one in before.results:
        for other in after.results:
            if one.case == other.case and (single or one.side == other.side):
                yield one, other


def _names(report: Report) -> list[str]:
    return [f"{result.side} {result.case.name}" for result in report.results]


def _changes(one: Result, other: Result, names: Sequence[str]) -> Iterator[Change]:
    valid = one.is_valid and other.is_valid
    for name in names:
        before, after = one.figure(name), other.figure(name)
        if before is None or after is None:
            continue
        yield Change(
            side=other.side,
            case=one.case.name,
            figure=name,
            unit=before.unit,
            before=before.spread,
            after=after.spread,
            verdict=_verdict(before, after) if valid else "INVALID",
        )


def _verdict(before: Figure, after: Figure) -> str:
    one, other = before.spread, after.spread
    known = min(one.confidence, other.confidence) >= CONFIDENCE
    if not known or (one.low <= other.high and other.low <= one.high):
        return "tie"
    return "better" if (other.median > one.median) is before.more_is_better else "worse"
