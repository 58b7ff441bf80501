# SPDX-License-Identifier: Apache-2.0

"""``unillm backends``: which engines are there, and what the others lack."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import typer

from . import options
from .reporting import reported
from .writing import write_json

if TYPE_CHECKING:
    from .. import BackendStatus


def backends(
    context: typer.Context,
    *,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Show the installed backends: available, or why not and what to do."""
    with reported(context, debug=debug):
        from .. import backends as installed

        found = sorted(installed(), key=_order)
        if as_json:
            write_json([attrs.asdict(status) for status in found])
        else:
            _write_table(found)


def _order(status: BackendStatus) -> tuple[bool, int, str]:
    """That of ``backend="auto"``, then by name."""
    return status.auto_rank is None, status.auto_rank or 0, status.name


def _write_table(found: list[BackendStatus]) -> None:
    from rich.table import Table
    from rich.text import Text

    from .tables import print_table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("name", "available", "auto", "from", "what it is"):
        table.add_column(title, overflow="fold")
    places = _places(found)
    for status in found:
        table.add_row(
            status.name,
            Text("yes", "green") if status.available else Text("no", "red"),
            places.get(status.name, "–"),
            status.distribution,
            Text(status.description),
        )
    print_table(table)
    for status in found:
        if not status.available:
            _write_reason(status)


def _places(found: list[BackendStatus]) -> dict[str, str]:
    """Place of each in the order of ``backend="auto"``, from 1."""
    ranked = [status.name for status in found if status.auto_rank is not None]
    return {name: str(place) for place, name in enumerate(ranked, 1)}


def _write_reason(status: BackendStatus) -> None:
    typer.echo(f"\n{status.name} is not available: {status.reason}")
    if status.remedy:
        typer.echo(f"  {status.remedy}")
