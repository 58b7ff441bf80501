# SPDX-License-Identifier: Apache-2.0

"""The result of one case on one side, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from .figures import Figure
from .verdicts import Reason
from .workloads import Case


@attrs.frozen(kw_only=True)
class Bar:
    """One request of the timeline: times from the start of the round, in seconds."""

    slot: int
    sent_s: float
    first_s: float
    last_s: float


@attrs.frozen(kw_only=True)
class Result:
    """One case on one side."""

    side: str
    case: Case
    figures: Sequence[Figure]
    reasons: Sequence[Reason]
    """Why the figures cannot be true; empty for a valid case."""
    notes: Sequence[str] = ()
    warmup_s: Sequence[float] = ()
    """Seconds of the rounds that were not measured."""
    percentiles: Mapping[str, Sequence[float]] = attrs.field(factory=dict)
    """Percentiles 0 to 100 of each latency, over all rounds."""
    timeline: Sequence[Bar] = ()
    """The requests of the last round."""

    @property
    def is_valid(self) -> bool:
        """Whether the figures can be true."""
        return not self.reasons

    def figure(self, name: str) -> Figure | None:
        """Return a figure by name."""
        return next((each for each in self.figures if each.name == name), None)
