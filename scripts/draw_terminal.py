# SPDX-License-Identifier: Apache-2.0

r"""Run commands and draw the terminal that shows them, as an animated SVG.

    python scripts/draw_terminal.py docs/compare.svg \
        'unillm generate "Count from 3 to 9:"' \
        "unillm compare unillm/tiny --backend transformers --backend ctranslate2 \
        --dtype float32"

draws the one of the README, in an environment that has CTranslate2.
Each command is typed, and its output appears as one piece; the pause stands for the
seconds that the command took, at most four of them. With reduced motion, the last
picture stands.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import attrs

_CHAR, _LINE, _LEFT, _TOP = 7.25, 19, 20, 62
_TYPING_S, _PAUSE_S, _END_S = 0.04, 4.0, 5.0
"""Seconds of a typed character, of the longest pause, and at the end."""

_STYLE = """
.card { fill: #16191d; stroke: #3a4048 }
.dot { fill: #3a4048 }
text { fill: #d6dae0; font: 12px ui-monospace, Menlo, Consolas, monospace;
       white-space: pre }
.command { fill: #ffffff; font-weight: 600 }
.prompt { fill: #6cb6ff }
.good { fill: #7ee787 }
.cover { fill: #16191d }
@media (prefers-reduced-motion: reduce) {
  * { animation: none !important }
  .cover { display: none }
}
"""


@attrs.frozen
class Shown:
    """A command, its output and the seconds that it took."""

    command: str
    output: str
    seconds: float


def record(command: str) -> Shown:
    """Run a command.

    Raises:
        CalledProcessError: It fails.
    """
    started = time.monotonic()
    output = subprocess.check_output(shlex.split(command), text=True)  # noqa: S603
    return Shown(command, output.rstrip("\n"), time.monotonic() - started)


def draw(shown: Sequence[Shown], *, title: str, description: str) -> str:
    """Return the SVG.

    Args:
        shown: What was run, in order.
        title: Name of the drawing, which its window shows too.
        description: The facts that it shows; screen readers read it.
    """
    end = sum(_seconds(each) for each in shown) + _END_S
    parts, rules = [], []
    now, line, width = 0.0, 0, 0
    for number, each in enumerate(shown):
        typed = now + len(each.command) * _TYPING_S
        rules += [_appears(f"c{number}", now, end)]
        rules += [_types(number, now, typed, end, len(each.command))]
        y = _TOP + line * _LINE
        parts.append(_command(number, each.command, y))
        now += _seconds(each)
        rules.append(_appears(f"o{number}", now, end))
        lines = each.output.split("\n")
        parts += [
            _text(text, y + (index + 1) * _LINE, f"o{number}")
            for index, text in enumerate(lines)
        ]
        line += len(lines) + 2
        width = max(width, len(each.command) + 2, *map(len, lines))
    size = f"{width * _CHAR + 2 * _LEFT:.0f} {_TOP + (line - 2) * _LINE + 18}"
    wide, high = size.split()
    style = _STYLE + "\n".join(rules)
    dots = "".join(
        f'<circle class="dot" cx="{x}" cy="21" r="5"/>' for x in (22, 40, 58)
    )
    body = "\n".join(parts)
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" \
role="img" aria-labelledby="terminal-title terminal-description">
<title id="terminal-title">{escape(title)}</title>
<desc id="terminal-description">{escape(description)}</desc>
<style>{style}</style>
<rect class="card" x="0.5" y="0.5" width="{int(wide) - 1}" height="{int(high) - 1}" \
rx="8"/>
{dots}
{body}
</svg>
"""


def _seconds(shown: Shown) -> float:
    return len(shown.command) * _TYPING_S + min(shown.seconds, _PAUSE_S)


def _appears(name: str, start_s: float, end_s: float) -> str:
    at = 100 * start_s / end_s
    return (
        f"@keyframes {name} {{ 0%, {at:.2f}% {{ opacity: 0 }} "
        f"{at + 0.01:.2f}%, 100% {{ opacity: 1 }} }}\n"
        f".{name} {{ animation: {name} {end_s:.1f}s infinite }}"
    )


def _types(number: int, start_s: float, stop_s: float, end_s: float, steps: int) -> str:
    """Return the rule that moves the cover of a command off it, letter by letter."""
    start, stop = 100 * start_s / end_s, 100 * stop_s / end_s
    moved = f"transform: translateX({steps * _CHAR:.1f}px)"
    return (
        f"@keyframes t{number} {{ 0%, {start:.2f}% {{ transform: none; "
        f"animation-timing-function: steps({steps}) }} "
        f"{stop:.2f}%, 100% {{ {moved} }} }}\n"
        f".t{number} {{ {moved}; animation: t{number} {end_s:.1f}s infinite }}"
    )


def _command(number: int, command: str, y: int) -> str:
    """Return a command under its cover, both cut off at the end of the command."""
    x, width = _LEFT + 2 * _CHAR, len(command) * _CHAR
    box = f'x="{x:.1f}" y="{y - 14}" width="{width + 2:.1f}" height="{_LINE}"'
    return (
        f'<clipPath id="clip{number}"><rect {box}/></clipPath>\n'
        f'<text class="prompt c{number}" x="{_LEFT}" y="{y}">$</text>\n'
        f'<g clip-path="url(#clip{number})">'
        f'<text class="command c{number}" x="{x:.1f}" y="{y}" '
        f'textLength="{width:.1f}">{escape(command)}</text>'
        f'<rect class="cover t{number}" {box}/></g>'
    )


def _text(text: str, y: int, name: str) -> str:
    kind = f"good {name}" if text.startswith("agree") else name
    length = f' textLength="{len(text) * _CHAR:.1f}"' if text else ""
    return f'<text class="{kind}" x="{_LEFT}" y="{y}"{length}>{escape(text)}</text>'


if __name__ == "__main__":
    path, *commands = sys.argv[1:]
    found = [record(command) for command in commands]
    drawn = draw(
        found,
        title="The same prompts on two engines",
        description="\n".join(f"$ {each.command}\n{each.output}" for each in found),
    )
    Path(path).write_text(drawn, encoding="utf-8")
