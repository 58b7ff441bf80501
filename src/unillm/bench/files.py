# SPDX-License-Identifier: Apache-2.0

"""A report as files: JSON, CSV with one line a figure, and one HTML page."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from .page import as_html
from .report import Report

COLUMNS = (
    "side",
    "case",
    "figure",
    "unit",
    "median",
    "low",
    "high",
    "smallest",
    "largest",
    "rounds",
    "bound",
    "share_of_bound",
    "valid",
    "reasons",
)


def save(report: Report, folder: Path) -> None:
    """Write ``report.json``, ``report.csv`` and ``report.html`` into a folder.

    Raises:
        ConfigError: matplotlib is not installed; the other two files are written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(report.to_json() + "\n", "utf-8")
    (folder / "report.csv").write_text(as_csv(report), "utf-8")
    (folder / "report.html").write_text(as_html(report), "utf-8")


def as_csv(report: Report) -> str:
    """Return all figures as CSV; a figure that cannot be true says so in its line."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(COLUMNS)
    for result in report.results:
        checks = "; ".join(reason.check for reason in result.reasons)
        for each in result.figures:
            spread = each.spread
            rows.writerow(
                [
                    result.side,
                    result.case.name,
                    each.name,
                    each.unit,
                    spread.median,
                    spread.low,
                    spread.high,
                    spread.smallest,
                    spread.largest,
                    spread.count,
                    each.bound,
                    each.share,
                    result.is_valid,
                    checks,
                ]
            )
    return text.getvalue()
