# SPDX-License-Identifier: Apache-2.0

"""``unillm conformance``: every clause of the contract on one backend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options
from .commands import command
from .exit_codes import ExitCode
from .writing import write_json

if TYPE_CHECKING:
    from ..testing.conformance import Conformance

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
        options.Loading,
        options.Without(
            "backend",
            "tokenizer",
            "trust_remote_code",
            "max_model_len",
            "max_num_batched_tokens",
            dtype="float32",
        ),
    ],
    as_json: options.AsJson = False,
) -> None:
    """Run every clause of the contract on a backend, with the bundled model.

    Needs the extra unillm[testing].
    """
    from tqdm import tqdm

    from ..testing.conformance import ClauseResult, run_contract

    # `None` shows the bar only where standard error is a terminal.
    with tqdm(unit=" clauses", disable=None, leave=False) as bar:

        def count(result: ClauseResult) -> None:
            bar.set_postfix_str(result.number, refresh=False)
            bar.update()

        found = run_contract(
            backend.lower(), model=model, options=engine, on_result=count
        )
    if as_json:
        write_json(as_data(found))
    else:
        _write_table(found)
    if not found.conforms:
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
    for result in found.results:
        if result.outcome is Outcome.PASSED:
            continue
        typer.echo(f"\n{result.number} {result.outcome.value}: {result.statement}")
        for line in result.detail.splitlines()[:_SHOWN_LINES]:
            typer.echo(f"  {line}")
