# SPDX-License-Identifier: Apache-2.0

"""``unillm bench``: engines and servers measured alike, and two reports compared."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import typer
import typer.core

from ..errors import ConfigError
from ..phase_bars import shown_phases
from . import options
from .commands import command
from .exit_codes import ExitCode
from .reporting import note
from .sides import check_side, pairs_by_side
from .writing import write, write_json

if TYPE_CHECKING:
    from typer._click.core import Context

    from ..bench.plan import Plan, Side
    from ..bench.workloads import Case, Workload


class _MeasureByDefault(typer.core.TyperGroup):
    """A group whose first argument may be a model instead of a command."""

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        """Put the command before a model or an option."""
        if args and args[0] not in {*self.commands, *self.get_help_option_names(ctx)}:
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    name="bench",
    cls=_MeasureByDefault,
    help="Measure engines and servers, each figure beside its bound.",
    no_args_is_help=True,
)

_side = functools.partial(
    options.Option,
    panel="Sides (an option given once is for all; else once for each --backend)",
)


class Sides(TypedDict, total=False):
    """Options that may differ between the sides."""

    backend: Annotated[list[str], _side("Engine of a side; once for each.", "NAME")]
    python: Annotated[
        list[str],
        _side(f"{options.PYTHON} - is this one.", "PATH"),
    ]
    dtype: Annotated[list[str], _side(options.DTYPE, "NAME")]
    option: Annotated[
        list[str],
        _side(
            "Option that only the backend has, for all sides, or for one side as "
            "1:KEY=VALUE, 2:KEY=VALUE, and so on.",
            "KEY=VALUE",
        ),
    ]
    url: Annotated[
        list[str],
        _side("Server that speaks OpenAI's API, as one more side.", "URL"),
    ]


_work = functools.partial(options.Option, panel="Work")


class Work(TypedDict, total=False):
    """Prompts, lengths and load."""

    preset: Annotated[
        str, _work("article: 128 tokens in, 100 out, batches of 1, 4 and 8.", "NAME")
    ]
    prompt_tokens: Annotated[int, _work("Tokens of each prompt.", "COUNT", default=128)]
    output_tokens: Annotated[
        int, _work("New tokens of each request.", "COUNT", default=100)
    ]
    lengths: Annotated[
        str,
        _work("fixed, or lognormal with the two means above.", "KIND", default="fixed"),
    ]
    file: Annotated[
        Path,
        _work(
            "JSON lines or a JSON list: prompts, a request log with prompt_tokens and "
            "completion_tokens, or ShareGPT conversations.",
            "PATH",
        ),
    ]
    batch: Annotated[list[int], _work("Requests of a batch; once for each.", "COUNT")]
    concurrency: Annotated[
        list[int], _work("Requests in flight; once for each.", "COUNT")
    ]
    rates: Annotated[
        str, _work("Requests a second that arrive by chance: 1,2,4.", "LIST")
    ]
    sweep: Annotated[bool, _work("Double the last rate until a side does not follow.")]
    requests: Annotated[
        int,
        _work(
            "Requests of a round with --rates or --concurrency.", "COUNT", default=64
        ),
    ]
    warmups: Annotated[int, _work("Rounds before the measured ones.", default=3)]
    rounds: Annotated[int, _work("Measured rounds.", default=10)]
    seed: Annotated[int, _work("Draws prompts and arrivals.", default=0)]
    one_after_another: Annotated[
        bool, _work("Load one side at a time, for engines that do not fit together.")
    ]


_output = functools.partial(options.Option, panel="Report")


class Output(TypedDict, total=False):
    """Objectives, prices and files."""

    slo: Annotated[
        str,
        _output("Seconds that a request must keep: ttft=0.5,tpot=0.05,e2e=10.", "LIST"),
    ]
    price_per_hour: Annotated[
        float, _output("Price of the machine: adds costs and break-even.", "AMOUNT")
    ]
    cost_per_build: Annotated[
        float, _output("Price of the work on each build.", "AMOUNT", default=0.0)
    ]
    builds_per_month: Annotated[
        float, _output("Builds of an engine that needs them.", "COUNT", default=1.0)
    ]
    requests_per_day: Annotated[
        float, _output("Expected traffic, for the bill of a month.", "COUNT")
    ]
    save: Annotated[
        Path,
        _output(
            "Write report.json, report.csv and report.html into this folder; the page "
            "needs the extra \\[bench].",
            "PATH",
        ),
    ]


@app.command("run")
@command
def run(
    model: options.ModelArgument,
    *,
    sides: Sides,
    work: Work,
    output: Output,
    engine: Annotated[
        options.Engine,
        options.Without("backend", "python", "dtype", "backend_options", "seed"),
    ],
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Measure one model on several sides: `unillm bench MODEL --backend A --backend B`.

    Each side runs in a process of its own, with --python in an environment of its own.
    All get the same prompts, in turn. The exit code is 9 if a figure cannot be true.
    """
    from ..bench import measure
    from ..bench.files import save
    from .bench_table import write_report

    plan = _plan(model, sides, work, output, engine)
    for side in plan.sides:
        if side.url is None:
            check_side(model, side.python, side.options)
    with shown_phases():
        report = measure(plan, note, show_log=debug)
    if folder := output.get("save"):
        save(report, folder)
    if as_json:
        write(report.to_json() + "\n")
    else:
        write_report(report)
    raise typer.Exit(ExitCode.OK if report.is_valid else ExitCode.INVALID)


def _plan(
    model: str,
    sides: Mapping[str, Any],
    work: Mapping[str, Any],
    output: Mapping[str, Any],
    engine: Mapping[str, Any],
) -> Plan:
    from ..bench.plan import Plan, article
    from ..bench.workloads import OPEN

    cases: Sequence[Case]
    if preset := work.get("preset"):
        if preset != "article":
            raise ConfigError(f"--preset takes article, got {preset!r}.")
        workload, cases = article(work.get("batch") or (1, 4, 8))
    else:
        workload, cases = _workload(work), _cases(work)
    if work.get("sweep") and not work.get("rates"):
        raise ConfigError("--sweep doubles a rate. Give the first one with --rates.")
    sizes = [int(case.size) for case in cases if case.kind != OPEN]
    shared = {"max_num_seqs": max(sizes), **engine} if sizes else dict(engine)
    return Plan(
        model=model,
        sides=_sides(sides, shared),
        workload=workload,
        cases=cases,
        warmups=work["warmups"],
        rounds=work["rounds"],
        seed=work["seed"],
        slo=_slo(output.get("slo")),
        one_after_another=bool(work.get("one_after_another")),
        sweep=bool(work.get("sweep")),
        price=_price(output),
    )


def _workload(work: Mapping[str, Any]) -> Workload:
    from ..bench.workloads import Fixed, Lognormal, read_records

    prompt, new = work["prompt_tokens"], work["output_tokens"]
    if path := work.get("file"):
        records = _records(path)
        return read_records(records, place=str(path), output_tokens=new)
    if work["lengths"] == "lognormal":
        return Lognormal(prompt_tokens=prompt, output_tokens=new)
    if work["lengths"] != "fixed":
        raise ConfigError(f"--lengths takes fixed or lognormal, got {work['lengths']}.")
    return Fixed(prompt_tokens=prompt, output_tokens=new)


def _records(path: Path) -> list[Any]:
    try:
        text = path.read_text("utf-8")
        if text.lstrip().startswith("["):
            return list(json.loads(text))
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise ConfigError(f"--file {path} cannot be read as JSON: {error}.") from error


def _cases(work: Mapping[str, Any]) -> list[Case]:
    from ..bench.workloads import BATCH, CLOSED, OPEN, Case

    count = work["requests"]
    cases = [
        Case(kind=BATCH, size=size, requests=size) for size in work.get("batch", ())
    ]
    cases += [
        Case(kind=CLOSED, size=size, requests=max(size, count))
        for size in work.get("concurrency", ())
    ]
    try:
        rates = [float(rate) for rate in work.get("rates", "").split(",") if rate]
    except ValueError as error:
        raise ConfigError(f"--rates takes numbers such as 1,2,4: {error}.") from error
    cases += [Case(kind=OPEN, size=rate, requests=count) for rate in rates]
    return cases or [Case(kind=BATCH, size=1, requests=1)]


def _slo(text: str | None) -> Any:
    from ..bench.figures import Slo

    if text is None:
        return None
    try:
        pairs = dict(each.split("=") for each in text.split(","))
        return Slo(**{f"{name}_s": float(value) for name, value in pairs.items()})
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"--slo takes pairs of ttft, tpot and e2e, such as ttft=0.5,tpot=0.05; got "
            f"{text!r}."
        ) from error


def _price(output: Mapping[str, Any]) -> Any:
    from ..bench.costs import Price

    if "price_per_hour" not in output:
        return None
    return Price(
        per_hour=output["price_per_hour"],
        per_build=output["cost_per_build"],
        builds_per_month=output["builds_per_month"],
        requests_per_day=output.get("requests_per_day"),
    )


def _sides(given: Mapping[str, Any], engine: Mapping[str, Any]) -> list[Side]:
    """Return the sides that the options describe.

    Raises:
        ConfigError: An option is given neither once nor once for each backend.
    """
    from ..bench.plan import Side
    from ..process.environments import find_python
    from .side_by_side import label

    values = dict(given)
    urls = values.pop("url", [])
    pairs = values.pop("option", [])
    count = max((len(each) for each in values.values()), default=0 if urls else 1)
    of_side = pairs_by_side(pairs, count)
    for name, each in values.items():
        if len(each) not in (1, count):
            raise ConfigError(
                f"--{name} is given {len(each)} times for {count} sides. Give it once "
                "for all sides, or once for each."
            )
    sides = []
    for number in range(count):
        own = {name: each[number % len(each)] for name, each in values.items()}
        python = own.pop("python", "-")
        own["backend_options"] = options.parse_key_values(of_side[number])
        python = sys.executable if python == "-" else find_python(python)
        name = label(own)
        if len(values.get("python", ())) > 1:
            name += f" [{python}]"
        sides.append(Side(label=name, options={**engine, **own}, python=python))
    return sides + [Side(label=url, url=url) for url in urls]


@app.command("compare")
@command
def compare(
    before: Annotated[Path, typer.Argument(help="report.json of the first.")],
    after: Annotated[Path, typer.Argument(help="report.json of the second.")],
    *,
    as_json: options.AsJson = False,
) -> None:
    """Compare two saved reports: another version, machine or day.

    A figure is better or worse only where the two intervals do not touch. The exit code
    is 9 if a report has a figure that cannot be true.
    """
    from ..bench import compare_reports, read_report
    from .bench_table import write_changes

    changes = compare_reports(read_report(before), read_report(after))
    if as_json:
        write_json([each.as_json() for each in changes])
    else:
        write_changes(changes)
    valid = all(each.verdict != "INVALID" for each in changes)
    raise typer.Exit(ExitCode.OK if valid else ExitCode.INVALID)
