# SPDX-License-Identifier: Apache-2.0

"""The tables of ``unillm bench``: figures with small bars, pairs, and reasons."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import typer

from ..bench.statistics import rounded
from ..byte_text import size
from .tables import column_table, pairs_table, print_table

if TYPE_CHECKING:
    from ..bench.comparing import Change
    from ..bench.costing import Costs
    from ..bench.figures import Figure
    from ..bench.report import Pair, Report, SideRecord
    from ..bench.results import Result

_BAR = 12
_BLOCKS = " ▏▎▍▌▋▊▉█"
SHOWN = ("ttft p50", "ttft p99", "tpot p50", "itl p99", "e2e p50", "e2e p99")
"""Latencies of the table; the JSON has all."""


def write_report(report: Report) -> None:
    """Write the sides, the figures of each case, the pairs and the reasons."""
    _write_device(report)
    print_table(pairs_table(*_sides(report.sides)))
    table = column_table(
        "case", "side", "tokens/s", "", "of bound", *SHOWN, "spread", "verdict"
    )
    fastest = {
        result.case.name: max(
            _median(each) for each in report.results if each.case == result.case
        )
        for result in report.results
    }
    for result in report.results:
        table.add_row(*_row(result, fastest[result.case.name]))
    typer.echo()
    print_table(table)
    for pair in report.pairs:
        typer.echo(_pair(pair))
    if report.costs is not None:
        _write_costs(report.costs)
    for result in report.results:
        for reason in result.reasons:
            typer.echo(
                f"INVALID  {result.case.name}, {result.side}: {reason.check}: "
                f"{reason.text}"
            )
    for each in report.notes:
        typer.echo(f"note  {each}")


def write_changes(changes: Sequence[Change]) -> None:
    """Write each figure of two reports, and whether it changed."""
    table = column_table(
        "side", "case", "figure", "before", "after", "ratio", "verdict"
    )
    for each in changes:
        table.add_row(
            each.side,
            each.case,
            each.figure,
            f"{_number(each.before.median)} {each.unit}",
            f"{_number(each.after.median)} {each.unit}",
            f"{each.ratio:.3f}",
            each.verdict,
        )
    print_table(table)


def _write_costs(costs: Costs) -> None:
    table = column_table("case", "side", "a million output tokens", "a month")
    for each in costs.sides:
        bill = "–" if each.monthly_bill is None else f"{each.monthly_bill:,.0f}"
        table.add_row(each.case, each.side, f"{each.per_million:.4g}", bill)
    typer.echo()
    print_table(table)
    table = column_table(
        "case", "faster", "slower", "price", "length", "saving", "pays from", "that is"
    )
    for moved in costs.moved:
        found = moved.break_even
        table.add_row(
            moved.case,
            moved.faster,
            moved.slower,
            f"× {moved.price_factor:g}",
            f"× {moved.length_factor:g}",
            f"{found.saving_per_million:.4g} a million",
            f"{rounded(found.tokens_per_month)} tokens a month",
            f"{rounded(found.requests_per_day)} requests a day, "
            f"{rounded(found.machines)} machines",
        )
    print_table(table)


def _write_device(report: Report) -> None:
    for device in {each.name: each for each in report.devices.values()}.values():
        typer.echo(
            f"{device.name}, {device.cores} cores: {device.bandwidth / 1e9:.1f} GB/s "
            f"at {size(device.measured_bytes)}, "
            f"{device.memory_bandwidth / 1e9:.1f} GB/s from memory, "
            f"{device.flops / 1e12:.3f} TFLOP/s, measured with {device.library}"
        )
        if device.datasheet:
            typer.echo(f"  for comparison, not a limit here: {device.datasheet}")


def _sides(sides: Sequence[SideRecord]) -> Iterator[tuple[str, ...]]:
    yield "side", *(each.label for each in sides)
    yield "from", *(each.ready.distribution for each in sides)
    yield "versions", *(_versions(each.ready.versions.items()) for each in sides)
    yield "cold start", *(f"{each.start_s:.1f} s" for each in sides)
    yield "  imports", *(f"{each.ready.import_s:.1f} s" for each in sides)
    yield "  build", *(_build(each) for each in sides)
    yield "  load", *(f"{each.ready.load_s:.1f} s" for each in sides)
    yield "  first token", *(f"{each.ready.first_token_s:.2f} s" for each in sides)
    yield "peak memory", *(size(each.peak_bytes) for each in sides)
    if any(each.device_bytes is not None for each in sides):
        yield "on the device", *(size(each.device_bytes or 0) for each in sides)


def _versions(items: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{name} {version}" for name, version in items)


def _build(side: SideRecord) -> str:
    seconds = side.ready.build_s
    return side.ready.built + ("" if seconds is None else f", {seconds:.1f} s")


def _row(result: Result, fastest: float) -> Iterator[str]:
    output = result.figure("output")
    yield result.case.name
    yield result.side
    if output is None or not result.is_valid:
        yield f"({_number(_median(result))})"
        yield ""
    else:
        yield _number(output.spread.median)
        yield bar(output.spread.median / fastest if fastest else 0.0)
    yield "–" if output is None or output.share is None else f"{output.share:.0%}"
    for name in SHOWN:
        yield _milliseconds(result.figure(name))
    yield (
        ""
        if output is None
        else (f"{_number(output.spread.smallest)}–{_number(output.spread.largest)}")
    )
    yield "valid" if result.is_valid else "INVALID"


def _median(result: Result) -> float:
    output = result.figure("output")
    return 0.0 if output is None else output.spread.median


def bar(share: float) -> str:
    """Return a bar of text that is as long as a share of 1."""
    eighths = round(max(0.0, min(1.0, share)) * _BAR * 8)
    full, part = divmod(eighths, 8)
    return ("█" * full + (_BLOCKS[part] if part else "")).ljust(_BAR)


def _milliseconds(figure: Figure | None) -> str:
    return "–" if figure is None else f"{figure.spread.median * 1e3:.2f} ms"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _pair(pair: Pair) -> str:
    ratio, equal = pair.output_ratio, pair.equality
    answers = (
        "answers without ids"
        if equal is None
        else f"{equal.equal} of {equal.requests} answers equal, "
        f"{equal.common_share:.0%} of the tokens before the first difference"
    )
    return (
        f"{pair.case}: {pair.sides[1]} / {pair.sides[0]} = {ratio.median:.3f} "
        f"({ratio.low:.3f}–{ratio.high:.3f}, {ratio.confidence:.0%}): {pair.decision}; "
        f"{answers}"
    )
