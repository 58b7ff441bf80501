# SPDX-License-Identifier: Apache-2.0

"""Markdown on a screen while it comes: nothing lost, nothing drawn twice."""

from __future__ import annotations

import io

import pyte
import pytest
from rich.console import Console

from unillm.cli import rendering
from unillm.cli.rendering import MarkdownScreen, whole_blocks

ANSWER = """# Title

A paragraph with **bold**, `code`, a <div> tag
and a second line.

1. first

2. second, a line so long that the narrow terminal has to wrap it at a word

```python
def double(x):

    return 2 * x
```

| name | value |
|---|---|
| a | 1 |

The end."""


class ScreenFile(io.StringIO):
    """A file that is a screen."""

    def __init__(self, columns, lines):
        super().__init__()
        self.screen = pyte.HistoryScreen(columns, lines, history=1000)
        self._stream = pyte.Stream(self.screen)

    def write(self, text):
        self._stream.feed(text.replace("\n", "\r\n"))
        return len(text)

    def lines(self):
        """All lines that are not blank, those above the screen too."""
        above = [
            "".join(line[column].data for column in range(self.screen.columns))
            for line in self.screen.history.top
        ]
        shown = [line.rstrip() for line in [*above, *self.screen.display]]
        return [line for line in shown if line]


@pytest.fixture
def shown(monkeypatch):
    """Show a text that comes in pieces of a size; return the lines."""
    monkeypatch.setattr(rendering, "_REDRAW_S", 0)

    def show(text, size, *, columns=60, lines=40):
        file = ScreenFile(columns, lines)
        console = Console(
            file=file,
            force_terminal=True,
            width=columns,
            height=lines,
            color_system=None,
        )
        with MarkdownScreen(console) as screen:
            for start in range(0, len(text), size):
                screen.add(text[start : start + size])
        return file.lines()

    return show


def test_markdown_is_rendered_and_html_is_text(shown):
    lines = shown(ANSWER, 7)

    assert lines[0].strip() == "Title"
    assert lines[1:3] == [
        "A paragraph with bold, code, a <div> tag",
        "and a second line.",
    ]
    assert lines[3:6] == [
        " 1 first",
        " 2 second, a line so long that the narrow terminal has to",
        "   wrap it at a word",
    ]
    assert " def double(x):" in lines
    assert "     return 2 * x" in lines
    assert lines[-1] == "The end."


@pytest.mark.parametrize("size", [1, 2, 5, 50])
@pytest.mark.parametrize("lines", [40, 6], ids=["all on the screen", "a low screen"])
def test_the_pieces_do_not_matter(size, lines, shown):
    assert shown(ANSWER, size, lines=lines) == shown(ANSWER, 10_000)


def test_a_paragraph_that_is_higher_than_the_screen_is_whole(shown):
    words = [f"word{number}" for number in range(120)]

    assert " ".join(shown(" ".join(words), 3, lines=8)).split() == words


@pytest.mark.parametrize(
    ("text", "done"),
    [
        ("one paragraph\nthat grows", ""),
        ("first\n\nsecond", "first\n\n"),
        ("```\ncode\n\nmore\n", ""),
        ("```\ncode\n```\nafter", "```\ncode\n```\n"),
        ("- a\n\n- b", ""),
        ("", ""),
    ],
    ids=["paragraph", "two", "open fence", "fence", "list", "nothing"],
)
def test_the_last_block_may_still_grow(text, done):
    assert text[: whole_blocks(text)] == done
