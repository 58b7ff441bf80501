# SPDX-License-Identifier: Apache-2.0

"""``unillm backends``: the installed engines, and what the unavailable ones lack."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

import unillm

from . import options
from .commands import command
from .writing import write_json

if TYPE_CHECKING:
    from .. import BackendStatus


@command
def backends(
    *,
    python: Annotated[
        str | None, typer.Option(help=options.PYTHON, metavar="PATH")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Show the backends here and in known environments: available, or why not."""
    found = sorted(unillm.backends(python=python), key=_order)
    if as_json:
        write_json(found)
    else:
        _write_table(found)


def _order(status: BackendStatus) -> tuple[bool, int, str]:
    """Sort by the order of ``backend="auto"``, then by name."""
    return status.auto_rank is None, status.auto_rank or 0, status.name


def _write_table(found: list[BackendStatus]) -> None:
    from rich.text import Text

    from .tables import column_table, print_table

    table = column_table("name", "available", "auto", "from", "what it is")
    for number, status in enumerate(found, 1):
        table.add_row(
            status.name,
            Text("yes", "green") if status.available else Text("no", "red"),
            "–" if status.auto_rank is None else str(number),
            status.distribution + (f" in {status.python}" if status.python else ""),
            Text(status.description),
        )
    print_table(table)
    for status in found:
        if status.available:
            continue
        typer.echo(f"\n{status.name} is not available: {status.reason}")
        if status.remedy:
            typer.echo(f"  {status.remedy}")
