# SPDX-License-Identifier: Apache-2.0

"""A report as one self-contained HTML page: tables, reasons and pictures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape

from .pictures import pictures
from .report import Report
from .results import Result
from .statistics import rounded

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem;
  padding: 0 1rem; color: #1a1a1a; background: #fff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #ddd; }
td { white-space: nowrap; }
th:first-child, td:first-child, .text { text-align: left; }
.wide { overflow-x: auto; }
.wide + .wide { margin-top: 1.2rem; }
.invalid { color: #b00020; } .invalid .number { text-decoration: line-through; }
.pictures { display: grid; gap: 1.5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 34rem), 1fr)); }
figure { margin: 0; } figcaption { font-weight: 600; margin-bottom: .3rem; }
svg { width: 100%; height: auto; }
pre { background: #f5f5f5; padding: .8rem; overflow-x: auto; font-size: 13px; }
"""

_LATENCIES = ("ttft p50", "ttft p99", "tpot p50", "e2e p50", "e2e p99")


def as_html(report: Report) -> str:
    """Return the page of a report.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    title = f"unillm bench: {report.model}"
    drawn = pictures(report)
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
            f"<h1>{escape(title)}</h1>",
            *_verdict(report),
            "<h2>Figures</h2>",
            _table(_FIGURE_HEADS, _figure_rows(report), _classes(report.results)),
            *_notes(report),
            *_pairs(report),
            *_costs(report),
            "<h2>Pictures</h2>",
            '<div class="pictures">',
            *(
                f"<figure><figcaption>{escape(name)}</figcaption>{svg}</figure>"
                for name, svg in drawn.items()
            ),
            "</div>",
            "<h2>Cold start and memory</h2>",
            _table(_SIDE_HEADS, _side_rows(report)),
            *_devices(report),
            "<h2>Conditions</h2>",
            f"<pre>{escape(json.dumps(report.conditions, indent=1))}</pre>",
            "</body></html>\n",
        ]
    )


def _verdict(report: Report) -> Iterable[str]:
    if report.is_valid:
        yield "<p>All figures keep their bounds and pass all checks.</p>"
        return
    yield '<p class="invalid">Some figures cannot be true:</p><ul>'
    for result in report.results:
        for reason in result.reasons:
            place = f"{result.side}, {result.case.name}: {reason.check}"
            yield f"<li><b>{escape(place)}</b>: {escape(reason.text)}</li>"
    yield "</ul>"


def _notes(report: Report) -> Iterable[str]:
    if report.notes:
        yield "<ul>"
        yield from (f"<li>{escape(note)}</li>" for note in report.notes)
        yield "</ul>"


_FIGURE_HEADS = (
    *("case", "side", "verdict", "output tokens/s", "interval", "bound", "of bound"),
    *_LATENCIES,
    *("goodput /s", "CPU s"),
)


def _figure_rows(report: Report) -> Iterable[list[str]]:
    for result in report.results:
        output = result.figure("output")
        assert output is not None
        bound, share = output.bound, output.share
        yield [
            result.case.name,
            result.side,
            "valid" if result.is_valid else "INVALID",
            f"{output.spread.median:,.1f}",
            f"{output.spread.low:,.1f} – {output.spread.high:,.1f}",
            "–" if bound is None else f"{bound:,.0f}",
            "–" if share is None else f"{share:.1%}",
            *(_milliseconds(result, name) for name in _LATENCIES),
            _plain(result, "goodput"),
            _plain(result, "cpu"),
        ]


def _milliseconds(result: Result, name: str) -> str:
    found = result.figure(name)
    return "–" if found is None else f"{found.spread.median * 1e3:.2f} ms"


def _plain(result: Result, name: str) -> str:
    found = result.figure(name)
    return "–" if found is None else f"{found.spread.median:.2f}"


def _pairs(report: Report) -> Iterable[str]:
    if not report.pairs:
        return
    yield "<h2>In pairs</h2>"
    heads = (
        "case",
        "sides",
        "ratio of output",
        "interval",
        "decision",
        "equal answers",
    )
    rows = [
        [
            pair.case,
            " / ".join(reversed(pair.sides)),
            f"{pair.output_ratio.median:.3f}",
            f"{pair.output_ratio.low:.3f} – {pair.output_ratio.high:.3f}",
            pair.decision,
            "no ids"
            if pair.equality is None
            else f"{pair.equality.equal} of {pair.equality.requests}",
        ]
        for pair in report.pairs
    ]
    yield _table(heads, rows)


def _costs(report: Report) -> Iterable[str]:
    if report.costs is None:
        return
    price = report.costs.price
    yield "<h2>Cost</h2>"
    yield (
        f"<p>At {price.per_hour:g} an hour, {price.per_build:g} a build and "
        f"{price.builds_per_month:g} builds a month.</p>"
    )
    yield _table(
        ("case", "side", "a million output tokens", "a month in whole machines"),
        [
            [
                each.case,
                each.side,
                f"{each.per_million:.4g}",
                "–" if each.monthly_bill is None else f"{each.monthly_bill:,.0f}",
            ]
            for each in report.costs.sides
        ],
    )
    heads = (
        *("case", "the faster side", "price", "length", "saving a million"),
        *("fixed a month", "pays from tokens a month", "requests a day", "machines"),
    )
    yield _table(
        heads,
        [
            [
                each.case,
                f"{each.faster} instead of {each.slower}",
                f"× {each.price_factor:g}",
                f"× {each.length_factor:g}",
                f"{each.break_even.saving_per_million:.4g}",
                f"{each.break_even.fixed_per_month:,.2f}",
                rounded(each.break_even.tokens_per_month),
                rounded(each.break_even.requests_per_day),
                f"{each.break_even.machines:.3g}",
            ]
            for each in report.costs.moved
        ],
    )


_SIDE_HEADS = (
    *("side", "from", "cold start", "imports", "build", "load", "first token"),
    *("peak memory", "on the device"),
)


def _side_rows(report: Report) -> Iterable[list[str]]:
    for side in report.sides:
        ready, device = side.ready, side.device_bytes
        build = "" if ready.build_s is None else f", {ready.build_s:.1f} s"
        yield [
            side.label,
            ready.distribution,
            f"{side.start_s:.1f} s",
            f"{ready.import_s:.1f} s",
            f"{ready.built}{build}",
            f"{ready.load_s:.1f} s",
            f"{ready.first_token_s:.2f} s",
            f"{side.peak_bytes / 2**20:,.0f} MiB",
            "–" if device is None else f"{device / 2**20:,.0f} MiB",
        ]


def _devices(report: Report) -> Iterable[str]:
    for side, device in report.devices.items():
        yield (
            f"<p>{escape(side)} on {escape(device.name)}, {device.cores} cores: "
            f"{device.bandwidth / 1e9:.1f} GB/s for the weights' "
            f"{device.measured_bytes / 2**20:.1f} MiB, "
            f"{device.memory_bandwidth / 1e9:.1f} GB/s from memory, "
            f"{device.flops / 1e12:.3f} TFLOP/s, measured with "
            f"{escape(device.library)}. {escape(device.datasheet)}</p>"
        )


def _classes(results: Sequence[Result]) -> list[str]:
    return ["" if result.is_valid else "invalid" for result in results]


def _kind(cell: str) -> str:
    """Return the class of a cell: an invalid number is struck out, a name is not."""
    return "number" if cell[:1].isdigit() else "name"


def _table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], classes: Sequence[str] = ()
) -> str:
    lines = ["".join(f"<th>{escape(head)}</th>" for head in heads)]
    lines += [
        "".join(f'<td class="{_kind(cell)}">{escape(cell)}</td>' for cell in row)
        for row in rows
    ]
    marks = ["", *classes, *[""] * len(lines)]
    body = "".join(
        f'<tr class="{mark}">{line}</tr>'
        for mark, line in zip(marks, lines, strict=False)
    )
    return f'<div class="wide"><table>{body}</table></div>'
