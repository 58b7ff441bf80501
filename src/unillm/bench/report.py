# SPDX-License-Identifier: Apache-2.0

"""The report of a measurement: plain values, to JSON and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from ..comparison.worker import CONVERTER
from ..errors import ConfigError
from .costing import Costs
from .device import Device
from .equality import Equality
from .lines import Ready
from .results import Result
from .statistics import Spread

FORMAT = 1
"""Changes when an older version would misread a report."""


@attrs.frozen(kw_only=True)
class SideRecord:
    """One side as it was measured."""

    label: str
    options: Mapping[str, Any]
    url: str | None
    ready: Ready
    start_s: float
    """Whole cold start, from the start of the process to the first token."""
    peak_bytes: int = 0
    """Peak memory of its processes."""
    device_bytes: int | None = None
    """Memory of the device; `None` where it does not say."""


@attrs.frozen(kw_only=True)
class Pair:
    """Two sides on one case."""

    case: str
    sides: tuple[str, str]
    output_ratio: Spread
    """Output tokens a second of the second side by the first's, round by round."""
    decision: str
    """"higher", "lower" or "tie", for the second side; "INVALID" if one side is."""
    equality: Equality | None
    """`None` where a side has no token ids."""


@attrs.frozen(kw_only=True)
class Report:
    """Everything that was measured, with its conditions."""

    format: int = FORMAT
    model: str
    conditions: Mapping[str, Any]
    devices: Mapping[str, Device]
    """By side; empty for a server, whose device is not seen."""
    sides: Sequence[SideRecord]
    results: Sequence[Result]
    pairs: Sequence[Pair]
    costs: Costs | None = None
    """`None` without a price."""

    @property
    def is_valid(self) -> bool:
        """Whether all figures can be true."""
        return all(result.is_valid for result in self.results)

    @property
    def notes(self) -> list[str]:
        """Remarks on the figures, each with its case and side."""
        notes = [
            f"{result.case.name}, {result.side}: {note}"
            for result in self.results
            for note in result.notes
        ]
        if self.pairs and not self.conditions["in_turn"]:
            notes.append(
                "the sides ran one after another, so rounds are no pairs in time"
            )
        return notes

    def of(self, side: str) -> list[Result]:
        """Return the results of a side."""
        return [result for result in self.results if result.side == side]

    def to_json(self) -> str:
        """Return the report as one line of JSON."""
        return str(CONVERTER.dumps(self))


def read_report(path: Path) -> Report:
    """Return a report from a file.

    Raises:
        ConfigError: The file cannot be read, or is not such a report.
    """
    try:
        text = path.read_text("utf-8")
        found = CONVERTER.loads(text, Report)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} is not a report of `unillm bench`: {error}."
        ) from error
    except Exception as error:  # cattrs raises groups of errors
        raise ConfigError(
            f"{path} is not a report of `unillm bench`: a field is missing or "
            "has the wrong type. Measure again with this version."
        ) from error
    if found.format != FORMAT:
        raise ConfigError(
            f"{path} has format {found.format}, and this version reads {FORMAT}. "
            "Measure again with this version."
        )
    return found
