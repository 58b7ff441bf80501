# SPDX-License-Identifier: Apache-2.0

"""What a person says in a chat, turn by turn: typed at a terminal, or from a pipe.

A turn is one line, or a block of lines between two ``\"\"\"``. A block is always a
message; a single line may be a command.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TextIO

import attrs
import typer

from .reporting import is_terminal, note, say_error

QUOTES = '"""'
_PROMPT, _PROMPT_IN_BLOCK = "> ", "| "


@attrs.frozen
class Turn:
    """What was said at once."""

    text: str
    is_block: bool = False
    is_whole: bool = True
    """False for a block that the input ended in."""


def read_turns() -> Iterator[Turn]:
    """Yield the turns of standard input until it ends. Empty ones are left out.

    Raises:
        KeyboardInterrupt: Ctrl-C outside of a block; in one it drops the block.
    """
    # Bytes that are no UTF-8 become a message that is refused, and not the end.
    with contextlib.suppress(AttributeError, ValueError):
        sys.stdin.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
    if is_terminal(sys.stdin):
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - from now on input() edits and remembers
    while (line := _read_line(_PROMPT)) is not None:
        if line.lstrip().startswith(QUOTES):
            turn = _read_block(line.lstrip().removeprefix(QUOTES))
        else:
            turn = Turn(line)
        if turn is not None and turn.text.strip():
            yield turn


def _read_block(line: str | None) -> Turn | None:
    """Read on from the opening quotes to the closing ones; `None` if it is dropped."""
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
    """Read a line without its end; `None` at the end of the input."""
    if not is_terminal(sys.stdin):
        line = sys.stdin.readline()
        return line.removesuffix("\n") if line else None
    try:
        if is_terminal(sys.stdout):
            return input(prompt)  # it needs to know the prompt to edit the line
        _write_prompt(sys.stderr, prompt)
        return input()
    except EOFError:
        typer.echo(err=True)
        return None


def _write_prompt(stream: TextIO, prompt: str) -> None:
    stream.write(prompt)
    stream.flush()


def refuse(turn: Turn) -> None:
    """Say that a block has no end, so that nothing of it was sent."""
    lines = turn.text.count("\n") + 1
    say_error(
        f"The input ended in a block of {lines} lines, which was not sent. End the "
        f"block with {QUOTES}."
    )
