# SPDX-License-Identifier: Apache-2.0

"""A sweep: which rate comes next, until a side no longer follows. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from .figures import Slo, keeps, latencies
from .samples import Run
from .statistics import percentile
from .workloads import Case

FOLLOWS = 0.9
"""A side follows while it serves this share of the rate that arrives, and while this
share of the requests keeps the objective."""

HIGHEST_RATE = 4096
"""Requests a second at which a sweep ends in any case."""


def next_case(case: Case, runs: Sequence[Run], slo: Slo | None) -> Case | None:
    """Return the case with twice the rate, or `None` if the side is saturated."""
    if not follows(runs, slo) or case.size > HIGHEST_RATE:
        return None
    return attrs.evolve(case, size=case.size * 2)


def follows(runs: Sequence[Run], slo: Slo | None) -> bool:
    """Whether a side served the requests of a case about as fast as they came."""
    shares, kept = [], []
    for run in runs:
        good = [sample for sample in run.samples if sample.error is None]
        if not good:
            return False
        good.sort(key=lambda sample: sample.sent_s)
        # A queue that grows makes the last requests wait longer than the first half.
        usual = percentile(latencies(good[: max(1, len(good) // 2)]), 50)
        shares.append((good[-1].sent_s + usual) / run.seconds)
        kept.append(sum(slo is None or keeps(s, slo) for s in good) / len(run.samples))
    return percentile(shares, 50) >= FOLLOWS and percentile(kept, 50) >= FOLLOWS
