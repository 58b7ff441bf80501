# SPDX-License-Identifier: Apache-2.0

"""Tables for people. Rich is imported only with this module, when a table is drawn."""

from __future__ import annotations

import sys

import typer
from rich.console import Console
from rich.table import Table

_WIDE = 400
"""Columns where standard output is not a terminal: a pipe gets unbroken lines."""


def print_table(table: Table) -> None:
    """Print to standard output: as wide as the terminal, or unbroken into a pipe."""
    console = Console(file=sys.stdout, highlight=False, markup=False)
    if not console.is_terminal:
        console.width = _WIDE
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        typer.echo(line.rstrip())


def pairs_table(*rows: tuple[str, ...]) -> Table:
    """Return a table of names, each with its values."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    for column in table.columns[1:]:
        column.overflow = "fold"
    return table


def column_table(*titles: str) -> Table:
    """Return an empty table with a header."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title, overflow="fold")
    return table
