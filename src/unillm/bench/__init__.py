# SPDX-License-Identifier: Apache-2.0

"""Measurements of engines and servers, each figure beside the bound it cannot pass.

`measure` runs a `Plan` and returns a `Report`. Every side is a process of its own and
gets the same prompts in turn; a figure that cannot be true makes its case INVALID.
"""

from .comparing import Change, compare_reports
from .costs import BreakEven, Price, break_even, cost_per_million
from .figures import Slo
from .plan import Plan, Side, article
from .report import Report, read_report
from .runner import measure
from .workloads import Case, Fixed, Lengths, Lognormal, Prompts, Workload

__all__ = [
    "BreakEven",
    "Case",
    "Change",
    "Fixed",
    "Lengths",
    "Lognormal",
    "Plan",
    "Price",
    "Prompts",
    "Report",
    "Side",
    "Slo",
    "Workload",
    "article",
    "break_even",
    "compare_reports",
    "cost_per_million",
    "measure",
    "read_report",
]
