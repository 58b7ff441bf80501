# SPDX-License-Identifier: Apache-2.0

"""Talk with the bundled model at a terminal and draw what its screen shows, as SVG.

    python scripts/draw_chat.py docs/reference

writes ``chat-light.svg`` and ``chat-dark.svg``; a number of columns may follow. It
needs pexpect and pyte.
"""

from __future__ import annotations

import itertools
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import pexpect
import pyte
from rich.console import Console
from rich.style import Style
from rich.terminal_theme import DEFAULT_TERMINAL_THEME, MONOKAI, TerminalTheme
from rich.text import Text

_LINES, _LIMIT_S = 60, 120
_TURNS = (
    ("Count from 3 to 9:", "3 4 5 6 7 8 9"),
    ("List the months from May:", "April"),
    ("/save talk.jsonl", "saved to"),
)
"""What is typed, and what the screen shows then."""

_THEMES = {"light": DEFAULT_TERMINAL_THEME, "dark": MONOKAI}
_NOT_OURS = re.compile(r"@font-face \{.*?\}|<!--.*?-->", re.DOTALL)
"""Fonts of another host, in whose place the reader's own serve, and a comment."""


def talk(columns: int) -> pyte.Screen:
    """Return the screen after all turns."""
    screen = pyte.Screen(columns, _LINES)
    stream = pyte.Stream(screen)
    with tempfile.TemporaryDirectory() as folder:
        process = pexpect.spawn(
            sys.executable,
            ["-m", "unillm", "chat"],
            env={
                **os.environ,
                "TERM": "xterm",
                "PROMPT_TOOLKIT_NO_CPR": "1",
                **dict.fromkeys(("XDG_STATE_HOME", "XDG_CONFIG_HOME"), folder),
            },
            cwd=folder,
            dimensions=(_LINES, columns),
            encoding="utf-8",
            timeout=_LIMIT_S,
        )

        def wait_for(text: str) -> None:
            while not _shown(screen).endswith("\n>") or text not in _shown(screen):
                process.expect(".+")
                stream.feed(process.after)

        wait_for("Ctrl-D leaves")
        for typed, then in _TURNS:
            process.send(f"{typed}\r")
            wait_for(then)
        process.send("\x04")
        process.expect(pexpect.EOF)
    return screen


def _shown(screen: pyte.Screen) -> str:
    return "\n".join(line.rstrip() for line in screen.display).rstrip()


def as_text(screen: pyte.Screen) -> Text:
    """Return what a screen shows, with its weights and colours."""
    text = Text()
    for number, line in enumerate(_shown(screen).split("\n")):
        cells = [screen.buffer[number][column] for column in range(len(line))]
        for (colour, bold), group in itertools.groupby(cells, _look):
            shown = "".join(cell.data for cell in group)
            text.append(shown, Style(color=colour, bold=bold))
        text.append("\n")
    text.rstrip()
    return text


def _look(cell: Any) -> tuple[str | None, bool]:
    return None if cell.fg == "default" else cell.fg, cell.bold


def draw(screen: pyte.Screen, theme: TerminalTheme) -> str:
    """Return the SVG of a screen."""
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=screen.columns, file=nowhere)
        console.print(as_text(screen))
        svg = console.export_svg(title="unillm chat", theme=theme, unique_id="chat")
    return _NOT_OURS.sub("", svg)


if __name__ == "__main__":
    folder, *width = sys.argv[1:]
    screen = talk(int(width[0]) if width else 80)
    for name, theme in _THEMES.items():
        path = Path(folder) / f"chat-{name}.svg"
        path.write_text(draw(screen, theme), encoding="utf-8")
