# SPDX-License-Identifier: Apache-2.0

"""Pictures of a report, as SVG texts. Needs matplotlib.

Colours are those of Okabe and Ito, which differ in any kind of colour vision. An
INVALID case is hatched or hollow.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..distributions import install
from ..errors import ConfigError
from .report import Report
from .results import Result
from .workloads import OPEN

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
_INVALID = "INVALID"
_SIZE = (7.0, 3.6)


def pictures(report: Report) -> dict[str, str]:
    """Return the pictures of a report by their titles.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise ConfigError(
            f"The HTML report needs matplotlib. Run: {install('bench')}"
        ) from error
    mpl.use("svg")  # no window
    drawn: dict[str, Callable[[Axes, Report], None]] = {
        "Throughput and its bound": _roofline,
        "Throughput against latency": _throughput_against_latency,
        "Percentiles of the time to the first token": _percentiles("ttft"),
        "Percentiles of the time between tokens": _percentiles("tpot"),
        "Percentiles of the whole request": _percentiles("e2e"),
        "Rounds, in their order": _rounds,
    }
    found = {title: _picture(report, draw) for title, draw in drawn.items()}
    for side in report.sides:
        timelines = [r for r in report.of(side.label) if r.timeline]
        if timelines:
            title = f"Timeline of {side.label}: {timelines[-1].case.name}"
            found[title] = _picture(report, _timeline(timelines[-1]))
    return found


def _picture(report: Report, draw: Callable[[Axes, Report], None]) -> str:
    import matplotlib.pyplot as plt

    style: Any = {"svg.fonttype": "none", "svg.hashsalt": "unillm", "font.size": 9}
    with plt.rc_context(style):
        figure, axes = plt.subplots(figsize=_SIZE, layout="constrained")
        draw(axes, report)
        axes.spines[["top", "right"]].set_visible(False)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
        plt.close(figure)
    svg = text.getvalue()
    return svg[svg.index("<svg") :]


def _colour(report: Report, side: str) -> str:
    labels = [each.label for each in report.sides]
    return COLOURS[labels.index(side) % len(COLOURS)]


def _cases(report: Report) -> list[str]:
    return list(dict.fromkeys(result.case.name for result in report.results))


def _roofline(axes: Axes, report: Report) -> None:
    """Draw bars of output tokens a second, each below the line of its bound."""
    cases = _cases(report)
    width = 0.8 / len(report.sides)
    for number, side in enumerate(report.sides):
        for result in report.of(side.label):
            output = result.figure("output")
            if output is None:
                continue
            place = cases.index(result.case.name) + (number + 0.5) * width - 0.4
            spread = output.spread
            axes.bar(
                place,
                spread.median,
                width * 0.9,
                color=_colour(report, side.label) if result.is_valid else "none",
                edgecolor=_colour(report, side.label),
                hatch=None if result.is_valid else "////",
                label=side.label if result.case.name == cases[0] else None,
            )
            axes.errorbar(
                place,
                spread.median,
                [[spread.median - spread.low], [spread.high - spread.median]],
                color="black",
                capsize=2,
            )
            if output.bound is not None:
                ends = place - width * 0.45, place + width * 0.45
                axes.hlines(output.bound, *ends, color="black", linewidth=2)
    axes.set_xticks(range(len(cases)), cases)
    axes.set_yscale("log")
    axes.set_ylabel("output tokens/s; thick line: bound")
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)


def _throughput_against_latency(axes: Axes, report: Report) -> None:
    for side in report.sides:
        points = [
            (latency.spread.median, output.spread.median, result)
            for result in report.of(side.label)
            if (output := result.figure("output"))
            and (latency := result.figure("e2e p50"))
        ]
        colour = _colour(report, side.label)
        axes.plot(
            [x for x, _, _ in points],
            [y for _, y, _ in points],
            color=colour,
            label=side.label,
        )
        for x, y, result in points:
            face = colour if result.is_valid else "white"
            axes.plot(x, y, "o", color=colour, markerfacecolor=face)
            name = result.case.name if result.is_valid else _INVALID
            axes.annotate(name, (x, y), (4, 4), textcoords="offset points", fontsize=7)
    axes.set_xlabel("median seconds of a request")
    axes.set_ylabel("output tokens/s")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)


def _percentiles(name: str) -> Callable[[Axes, Report], None]:
    def draw(axes: Axes, report: Report) -> None:
        styles = ("-", "--", ":", "-.")
        cases = _cases(report)
        for result in report.results:
            values: Sequence[float] = result.percentiles.get(name, ())
            style = styles[cases.index(result.case.name) % len(styles)]
            axes.plot(
                [value * 1e3 for value in values],
                range(len(values)),
                style,
                color=_colour(report, result.side),
                label=_label(result),
            )
        axes.set_xlabel("milliseconds")
        axes.set_ylabel("percent of the requests")
        axes.set_xscale("log")
        axes.legend(frameon=False, fontsize=7)

    return draw


def _rounds(axes: Axes, report: Report) -> None:
    """Draw each round, warm-ups left of zero: whether the figures had settled."""
    for result in report.results:
        output = result.figure("round")
        if output is None:
            continue
        seconds = [*result.warmup_s, *output.values]
        first = -len(result.warmup_s)
        axes.plot(
            range(first, first + len(seconds)),
            seconds,
            "o-",
            markersize=3,
            linewidth=0.8,
            color=_colour(report, result.side),
        )
        axes.annotate(
            result.case.name,
            (first + len(seconds) - 1, seconds[-1]),
            (4, 0),
            textcoords="offset points",
            fontsize=7,
        )
    axes.axvspan(axes.get_xlim()[0], -0.5, color="0.9", zorder=0)
    axes.set_xlabel("round; the grey ones warm up")
    axes.set_ylabel("seconds of a round")
    axes.set_ylim(bottom=0)


def _timeline(result: Result) -> Callable[[Axes, Report], None]:
    def draw(axes: Axes, report: Report) -> None:
        colour = _colour(report, result.side)
        for bar in result.timeline:
            waits, computes = bar.first_s - bar.sent_s, bar.last_s - bar.first_s
            axes.barh(bar.slot, waits, left=bar.sent_s, color="0.8", height=0.7)
            axes.barh(bar.slot, computes, left=bar.first_s, color=colour, height=0.7)
        axes.set_xlabel("seconds of the last round; grey: before the first token")
        axes.set_ylabel("request" if result.case.kind == OPEN else "slot")
        axes.invert_yaxis()

    return draw


def _label(result: Result) -> str:
    mark = "" if result.is_valid else f" {_INVALID}"
    return f"{result.side}, {result.case.name}{mark}"
