# SPDX-License-Identifier: Apache-2.0

"""The turns of a chat in a pipe, and the form of a turn.

A turn is one line, or a block of lines between two ``\"\"\"``. A block is always a
message; a single line may be a command.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import attrs

QUOTES = '"""'


@attrs.frozen
class Turn:
    """A line or a block of the input."""

    text: str
    is_block: bool = False
    is_whole: bool = True
    """False for a block without its closing quotes at the end of the input."""


def is_open(text: str) -> bool:
    """Whether a text begins a block and does not end it."""
    begins = text.lstrip()
    if not begins.startswith(QUOTES):
        return False
    return not begins.removeprefix(QUOTES).rstrip().endswith(QUOTES)


def as_turn(text: str) -> Turn:
    """Return the turn of one or more lines."""
    begins = text.lstrip()
    if not begins.startswith(QUOTES):
        return Turn(text, is_block="\n" in text)
    inner = begins.removeprefix(QUOTES)
    is_whole = not is_open(text)
    if is_whole:
        inner = inner.rstrip().removesuffix(QUOTES)
    return Turn(inner.strip("\n"), is_block=True, is_whole=is_whole)


def read_turns() -> Iterator[Turn]:
    """Yield the turns of standard input until it ends; empty ones are left out."""
    # Bytes that are not UTF-8 make a message that is refused, and do not end the input.
    with contextlib.suppress(AttributeError, ValueError):
        sys.stdin.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
    while text := sys.stdin.readline():
        while is_open(text) and (line := sys.stdin.readline()):
            text += line
        turn = as_turn(text.removesuffix("\n"))
        if turn.text.strip():
            yield turn
