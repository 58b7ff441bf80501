# SPDX-License-Identifier: Apache-2.0

"""Tables for people. Rich is imported here, so only where one is drawn."""

from __future__ import annotations

import sys

import typer
from rich.console import Console
from rich.table import Table

_WIDE = 400
"""Columns where nobody's terminal says how many there are: a pipe gets whole lines."""


def print_table(table: Table) -> None:
    """Print to standard output: as wide as the terminal, or unbroken into a pipe."""
    console = Console(file=sys.stdout, highlight=False, markup=False)
    if not console.is_terminal:
        console.width = _WIDE
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        typer.echo(line.rstrip())


def pairs_table() -> Table:
    """Return an empty table of names and values."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    return table
