# SPDX-License-Identifier: Apache-2.0

"""``unillm conformance``: every clause of the contract on one backend."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import typer

from . import options
from .commands import command
from .exit_codes import ExitCode
from .writing import write_json

if TYPE_CHECKING:
    from ..testing.conformance import ClauseResult, Conformance

_SHOWN_LINES = 12
"""Lines of a failure's detail; ``--json`` has all."""


@command
def conformance(
    backend: Annotated[
        str, typer.Argument(metavar="BACKEND", help="Name of an installed backend.")
    ],
    *,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="The bundled model, or a directory with that model in another form.",
        ),
    ] = "unillm/tiny",
    engine: Annotated[
        options.Engine,
        options.Without(
            "backend",
            "tokenizer",
            "trust_remote_code",
            "max_model_len",
            "max_num_batched_tokens",
            "seed",
            dtype="float32",
        ),
    ],
    only: Annotated[
        str | None,
        typer.Option(
            "--only", metavar="CLAUSES", help="Run these clauses alone: R1,S5."
        ),
    ] = None,
    random: Annotated[
        int | None,
        typer.Option(
            "--random",
            metavar="COUNT",
            min=1,
            help="Run so many random requests in place of the clauses, and judge "
            "every token. Needs no pytest.",
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option("--seed", help="Seed of --random: the same makes the same run."),
    ] = 0,
    badge: Annotated[
        Path | None,
        typer.Option(
            "--badge",
            metavar="FILE",
            help="Write the counts for a badge, in the JSON that shields.io reads.",
        ),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    r"""Run every clause of the contract on a backend, with the bundled model.

    Needs the extra \[testing]; --random needs numpy and safetensors alone.
    """
    from tqdm import tqdm

    from ..testing.conformance import run_contract

    given = dict(engine)
    if random is not None:
        _run_random(backend.lower(), random, seed, model, given, as_json=as_json)
        return
    # `None` shows the bar only where standard error is a terminal.
    with tqdm(unit=" clauses", disable=None, leave=False) as bar:

        def count(result: ClauseResult) -> None:
            bar.set_postfix_str(result.number, refresh=False)
            bar.update()

        numbers = [each.strip() for each in (only or "").split(",") if each.strip()]
        found = run_contract(
            backend.lower(), model=model, options=given, only=numbers, on_result=count
        )
    if badge is not None:
        badge.write_text(json.dumps(as_badge(found)) + "\n", encoding="utf-8")
    if as_json:
        write_json(as_data(found))
    else:
        _write_table(found)
    if not found.conforms:
        raise typer.Exit(ExitCode.NONCONFORMING)


def _run_random(
    backend: str,
    requests: int,
    seed: int,
    model: str,
    given: dict[str, Any],
    *,
    as_json: bool,
) -> None:
    """Run random requests, and write the report."""
    from tqdm import tqdm

    from ..testing.randomised import run_random

    with tqdm(total=requests, unit=" requests", disable=None, leave=False) as bar:

        def count(requests: int) -> None:
            bar.update(requests)

        report = run_random(
            backend,
            requests=requests,
            seed=seed,
            model=model,
            options=given,
            on_session=count,
        )
    if as_json:
        write_json({**attrs.asdict(report), "conforms": report.conforms})
    else:
        typer.echo(
            f"{report.backend}: {report.requests} random requests of seed {seed}, "
            f"{report.tokens} new tokens, {report.draws} of them drawn. Frequencies "
            f"of {report.groups} groups were tested at an error rate of "
            f"{report.error_rate:g}."
        )
        typer.echo("No fault." if report.conforms else f"\n{report.fault}")
        if report.program:
            typer.echo(f"\nThis program shows it:\n\n{report.program}")
    if not report.conforms:
        raise typer.Exit(ExitCode.NONCONFORMING)


def as_data(found: Conformance) -> dict[str, Any]:
    """Return the JSON object of a run of the contract."""
    return {
        "backend": found.backend,
        "distribution": found.distribution,
        "conforms": found.conforms,
        "counts": found.counts(),
        "clauses": found.results,
    }


def as_badge(found: Conformance) -> dict[str, Any]:
    """Return the counts as an endpoint of shields.io: a label, a text and a colour."""
    counts = found.counts()
    shown = [f"{counts[name]} {name}" for name in ("passed", "failed", "waived")]
    return {
        "schemaVersion": 1,
        "label": f"unillm contract: {found.backend}",
        "message": ", ".join(each for each in shown if each[0] != "0"),
        "color": "brightgreen" if found.conforms else "red",
    }


def _write_table(found: Conformance) -> None:
    """Write the counts, then every clause that did not pass."""
    from rich.text import Text

    from ..testing.conformance import Outcome
    from .tables import column_table, print_table

    colours = {Outcome.PASSED: "green", Outcome.FAILED: "red", Outcome.WAIVED: "yellow"}
    counts = column_table("backend", "from", *found.counts())
    counts.add_row(
        found.backend,
        found.distribution,
        *(
            Text(str(count), colours.get(outcome, ""))
            for outcome, count in zip(Outcome, found.counts().values(), strict=True)
        ),
    )
    print_table(counts)
    others = [each for each in found.results if each.outcome is not Outcome.PASSED]
    for same in _by_cause(others):
        _write_clauses(same)


def _by_cause(results: Sequence[ClauseResult]) -> list[list[ClauseResult]]:
    """Return the results in their order, those of one outcome and detail together."""
    found: dict[tuple[str, str], list[ClauseResult]] = {}
    for result in results:
        key = (result.outcome.value, result.detail or result.number)
        found.setdefault(key, []).append(result)
    return list(found.values())


def _write_clauses(same: Sequence[ClauseResult]) -> None:
    """Write clauses of one outcome and one detail, which is written once."""
    first = same[0]
    numbers = ", ".join(each.number for each in same)
    if len(same) == 1:
        typer.echo(f"\n{numbers} {first.outcome.value}: {first.statement}")
    else:
        typer.echo(f"\n{len(same)} clauses {first.outcome.value} alike: {numbers}")
    for line in first.detail.splitlines()[:_SHOWN_LINES]:
        typer.echo(f"  {line}")
    if first.advice and len(same) == 1:
        typer.echo(f"  Troubleshooting: {first.advice}")
    if first.advice:
        typer.echo(f"  {first.file}")
