# SPDX-License-Identifier: Apache-2.0

"""Answers on a terminal: Markdown, rendered while it comes and wrapped at words.

Blocks that can no longer change are printed for good. The last one, which grows, is
drawn again at each update.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from markdown_it import MarkdownIt
from rich.console import Console
from rich.live import Live
from rich.markdown import Markdown
from rich.segment import Segment
from rich.theme import Theme
from typing_extensions import Self

if TYPE_CHECKING:
    from types import TracebackType

    from rich.console import ConsoleOptions, RenderResult

    from .. import RequestHandle, RequestOutput

_REDRAW_S = 0.05
"""Least time between two drawings: a terminal shows no more."""

_parser = MarkdownIt("commonmark", {"html": False}).enable("strikethrough")
_parser.enable("table")


def as_markdown(text: str) -> Markdown:
    """Return a text to be rendered. HTML stays text, and a line's end stays one."""
    # The terminal's own colours, on its own background, light or dark.
    markdown = Markdown("", code_theme="ansi_dark")
    markdown.markup, markdown.parsed = text, _parser.parse(text)
    for token in markdown.parsed:
        for child in token.children or ():
            if child.type == "softbreak":
                child.type = "hardbreak"
    return markdown


def whole_blocks(text: str) -> int:
    """Return the length of the part of a text whose blocks can no longer change."""
    starts = [
        token.map[0]
        for token in _parser.parse(text)
        if token.level == 0 and token.map is not None and token.nesting >= 0
    ]
    lines = text.split("\n")[: starts[-1]] if starts else []
    return sum(len(line) + 1 for line in lines)


@contextlib.contextmanager
def _without_echo() -> Iterator[None]:
    """Keep the terminal from writing typed keys, Ctrl-C too, into what is drawn."""
    try:
        import termios
    except ImportError:  # Windows
        yield
        return
    try:
        number = sys.stdin.fileno()
        before = termios.tcgetattr(number)
    except (OSError, ValueError, termios.error):
        yield
        return
    quiet = [*before]
    quiet[3] &= ~termios.ECHO
    termios.tcsetattr(number, termios.TCSADRAIN, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Hold Ctrl-C back until a drawing is complete.

    Raises:
        KeyboardInterrupt: It came in between.
    """
    held: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: held.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if held:
        raise KeyboardInterrupt


class MarkdownScreen:
    """Draws one answer on a console."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._text = ""
        """The part that is not printed for good."""
        self._printed = False
        self._drawn = 0.0

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with _undisturbed():
            self._live.update("")
            self._live.stop()
            self._print(self._text)

    def add(self, text: str) -> None:
        """Show more of the answer."""
        with _undisturbed():
            self._add(text)

    def _add(self, text: str) -> None:
        self._text += text
        if "\n" in text and (done := whole_blocks(self._text)):
            self._print(self._text[:done])
            self._text = self._text[done:]
        now = time.monotonic()
        if now - self._drawn >= _REDRAW_S:
            self._drawn = now
            self._live.update(_Block(self._text, end=True), refresh=True)

    def _print(self, text: str) -> None:
        if not text.strip():
            return
        if self._printed:
            self._console.print()
        self._printed = True
        self._console.print(_Block(text), end="")


class _Block:
    """Text as Markdown, without blank lines around it.

    Args:
        text: One block or more.
        end: Show only the last lines, as many as the terminal has.
    """

    def __init__(self, text: str, *, end: bool = False) -> None:
        self._markdown = as_markdown(text)
        self._end = end

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> RenderResult:
        lines = console.render_lines(self._markdown, options, pad=False)
        while lines and _is_blank(lines[0]):
            del lines[0]
        while lines and _is_blank(lines[-1]):
            del lines[-1]
        if self._end:
            lines = lines[-max(1, console.height - 2) :]
        for line in lines:
            yield from line
            yield Segment.line()


def _is_blank(line: list[Segment]) -> bool:
    return all(
        not each.text.strip() and not (each.style and each.style.bgcolor)
        for each in line
    )


def show_markdown(handle: RequestHandle) -> tuple[RequestOutput | None, str]:
    """Show an answer as it comes; Ctrl-C stops it. See `conversation.Show`.

    Raises:
        RequestError: The request failed.
    """
    shown: list[str] = []
    output = None
    try:
        console = Console(theme=Theme({"markdown.code": "bold cyan"}))
        with _without_echo(), MarkdownScreen(console) as screen:
            for delta in handle:
                shown.append(delta.text)
                screen.add(delta.text)
            output = handle.result()
    except KeyboardInterrupt:
        pass
    finally:
        handle.cancel()
    return output, "".join(shown)
