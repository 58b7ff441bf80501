# SPDX-License-Identifier: Apache-2.0

"""The turns of a chat, read from a terminal or a pipe.

A turn is one line, or a block of lines between two ``\"\"\"``. A block is always a
message; a single line may be a command.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import attrs
import typer

from .reporting import is_terminal, note

QUOTES = '"""'
_PROMPT, _PROMPT_IN_BLOCK = "> ", "| "


@attrs.frozen
class Turn:
    """A line or a block of the input."""

    text: str
    is_block: bool = False
    is_whole: bool = True
    """False for a block without its closing quotes at the end of the input."""


def read_turns() -> Iterator[Turn]:
    """Yield the turns of standard input until it ends; empty ones are left out.

    Raises:
        KeyboardInterrupt: Ctrl-C outside of a block; inside, it drops the block.
    """
    # Bytes that are not UTF-8 make a message that is refused, and do not end the input.
    with contextlib.suppress(AttributeError, ValueError):
        sys.stdin.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
    if is_terminal(sys.stdin):
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - makes input() edit lines and keep a history
    while (line := _read_line(_PROMPT)) is not None:
        if line.lstrip().startswith(QUOTES):
            turn = _read_block(line.lstrip().removeprefix(QUOTES))
        else:
            turn = Turn(line)
        if turn is not None and turn.text.strip():
            yield turn


def _read_block(line: str | None) -> Turn | None:
    """Read from the opening to the closing quotes; `None` if Ctrl-C drops the block."""
    lines: list[str] = []
    try:
        while line is not None and not line.rstrip().endswith(QUOTES):
            lines.append(line)
            line = _read_line(_PROMPT_IN_BLOCK)
    except KeyboardInterrupt:
        typer.echo(err=True)
        note("the block is dropped.")
        return None
    if line is not None:
        lines.append(line.rstrip().removesuffix(QUOTES))
    return Turn("\n".join(lines).strip("\n"), is_block=True, is_whole=line is not None)


def _read_line(prompt: str) -> str | None:
    """Return a line without its end; `None` at the end of the input."""
    if not is_terminal(sys.stdin):
        line = sys.stdin.readline()
        return line.removesuffix("\n") if line else None
    try:
        if is_terminal(sys.stdout):
            return input(prompt)  # line editing needs to know the prompt
        typer.echo(prompt, nl=False, err=True)
        return input()
    except EOFError:
        typer.echo(err=True)
        return None
