# SPDX-License-Identifier: Apache-2.0

"""``unillm conformance``: whether a backend holds the contract, clause by clause."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from typing_extensions import Self

from . import options
from .exit_codes import ExitCode
from .reporting import reported
from .writing import write_json

if TYPE_CHECKING:
    from ..testing.conformance import ClauseResult, Conformance

_MODEL_HELP = "The bundled model, or a directory with the same model in another form."


def conformance(
    context: typer.Context,
    backend: Annotated[
        str, typer.Argument(metavar="BACKEND", help="Name of an installed backend.")
    ],
    *,
    model: Annotated[
        str, typer.Option("--model", "-m", help=_MODEL_HELP)
    ] = "unillm/tiny",
    dtype: options.Dtype = "float32",
    max_num_seqs: options.MaxNumSeqs = None,
    backend_options: options.BackendOption = None,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Run the contract on a backend: every clause, with the bundled model.

    Needs the extra unillm[testing].
    """
    with reported(context, debug=debug):
        from ..testing.conformance import run_contract

        given = options.parse_key_values(backend_options or ())
        seats = {} if max_num_seqs is None else {"max_num_seqs": max_num_seqs}
        with _Progress() as progress:
            found = run_contract(
                backend.lower(),
                model=model,
                options={"dtype": dtype, "backend_options": given, **seats},
                on_result=progress.tell,
            )
        if as_json:
            write_json(as_data(found))
        else:
            _write_table(found)
        if not found.conforms:
            raise typer.Exit(ExitCode.NONCONFORMING)


class _Progress:
    """A bar on standard error, if a person looks at it."""

    def __enter__(self) -> Self:
        from tqdm import tqdm

        # `None`: no bar where standard error is no terminal.
        self._bar = tqdm(unit=" clauses", disable=None, leave=False)
        return self

    def tell(self, result: ClauseResult) -> None:
        """Count a clause."""
        self._bar.set_postfix_str(result.number, refresh=False)
        self._bar.update()

    def __exit__(self, *_: object) -> None:
        self._bar.close()


def as_data(found: Conformance) -> dict[str, object]:
    """Return all that is known of a run of the contract."""
    return {
        "backend": found.backend,
        "distribution": found.distribution,
        "conforms": found.conforms,
        "counts": found.counts(),
        "clauses": [
            {
                "number": result.number,
                "statement": result.statement,
                "outcome": result.outcome.value,
                "detail": result.detail,
            }
            for result in found.results
        ],
    }


def _write_table(found: Conformance) -> None:
    """Write the counts, and then every clause that did not just pass."""
    from rich.table import Table
    from rich.text import Text

    from ..testing.conformance import Outcome
    from .tables import print_table

    colours = {Outcome.PASSED: "green", Outcome.FAILED: "red", Outcome.WAIVED: "yellow"}
    counts = Table(box=None, pad_edge=False, header_style="bold")
    titles = ("backend", "from", *found.counts())
    for title in titles:
        counts.add_column(title, overflow="fold")
    counts.add_row(
        found.backend,
        found.distribution,
        *(
            Text(str(count), colours.get(outcome, ""))
            for outcome, count in zip(Outcome, found.counts().values(), strict=True)
        ),
    )
    print_table(counts)
    others = [r for r in found.results if r.outcome is not Outcome.PASSED]
    for result in others:
        typer.echo(f"\n{result.number} {result.outcome.value}: {result.statement}")
        for line in result.detail.splitlines()[:_DETAIL_LINES]:
            typer.echo(f"  {line}")


_DETAIL_LINES = 12
"""Of what was seen of a failure; ``--json`` has all of it."""
