# SPDX-License-Identifier: Apache-2.0

"""Refuses wording that the style of this repository rules out.

Usage::

    python scripts/check_prose.py            # every tracked Python and Markdown file
    python scripts/check_prose.py docs src   # files below these

The rule is one sentence: the subject is a noun of ``docs/glossary.md``, and the verb
says what it does. A regular expression sees only some of the sentences that break it;
this script refuses those. In Python files it reads comments, docstrings, other string
literals and the names of functions.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ANYWHERE = {
    r"\b(?:nobody|somebody|whoever|anybody|everybody)\b": "name who: the caller, the "
    "thread, the backend",
    r"\b(?:told|tells?|telling)\b": "say which part does what: returns, raises, "
    "reports, logs",
    r"(?<![Tt]here )\bis no (?!longer\b|more\b|less\b)[a-z]+": "write 'is not a …'",
    r"\b[Ww]ho (?:waits?|was|came|comes|has|asks?|wants?|uses|runs)\b": "name the "
    "caller, the thread or the request",
    r"\bAs in `": "say it here in a line",
    r"\b(?:a|the|its|own|each|every|other|this|that|which|any) doors?\b": "write "
    "'entry path' or 'argument class'",
    r"\bend ids?\b": "write 'EOS token' or 'EOS token id'",
    r"\b(?:bring|brings|take|takes) (?:news|notice)\b": "name the action: record, hand",
    r"\. (?:Of|Who|Whose|Whoever|Nobody|Somebody) [a-z`*]": "a sentence without a "
    "subject; name the request, the engine or the caller",
}
"""Patterns that no line of prose may have, with advice."""

OPENINGS = {
    r"^(?:Of|Who|Whose|Whoever|Nobody|Somebody) [a-z`*]": "a sentence without a "
    "subject; name the request, the engine or the caller",
    r"^What (?!is |are |does |do |can |should |if )[a-z`*]": "a heading or docstring "
    "without a subject; start with the noun or the verb",
}
"""Patterns that no docstring, comment, heading or list item may begin with."""

NAMES = re.compile(r"_(?:nobody|somebody|whoever|told|tells|everybody|is_no)(?:_|$)")
"""Words that the name of a function may not have."""

_ANYWHERE = [(re.compile(pattern), advice) for pattern, advice in ANYWHERE.items()]
_OPENINGS = [(re.compile(pattern), advice) for pattern, advice in OPENINGS.items()]
_KEPT = {"scripts/check_prose.py", "CHANGELOG.md"}
_FENCE = re.compile(r"^\s*(?:```|~~~)")
_QUOTES = re.compile(r"^\w*(?:\"\"\"|'''|\"|')|(?:\"\"\"|'''|\"|')$")
_FSTRING = getattr(tokenize, "FSTRING_MIDDLE", None)
"""Text of an f-string from Python 3.12 on; older ones have one `STRING` token."""
_STATEMENT_STARTS = {
    tokenize.NEWLINE,
    tokenize.NL,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
}


class Line(NamedTuple):
    """A line of prose."""

    number: int
    text: str
    opens: bool
    """Whether a docstring, comment, heading or list item begins here."""


def main(arguments: list[str]) -> int:
    """Print each refused line and return the exit code."""
    listed = ["git", "ls-files", "--", *(arguments or ["*.py", "*.md"])]
    files = subprocess.check_output(listed, text=True)  # noqa: S603 - git itself
    count = 0
    for name in files.split():
        path = Path(name)
        if name in _KEPT or path.suffix not in (".py", ".md") or not path.exists():
            continue
        lines = python_lines if path.suffix == ".py" else markdown_lines
        for line in lines(path.read_text(encoding="utf-8")):
            for advice in refused(line):
                print(f"{name}:{line.number}: {line.text.strip()}\n    {advice}")
                count += 1
    if count:
        print(f"{count} lines to reword.")
    return min(count, 1)


def refused(line: Line) -> Iterator[str]:
    """Yield advice for each pattern that a line matches."""
    text = line.text.strip().lstrip("#>-*: ").strip()
    for rule, advice in [*_ANYWHERE, *(_OPENINGS if line.opens else ())]:
        if rule.search(text):
            yield advice


def python_lines(source: str) -> Iterator[Line]:
    """Yield the prose of a Python file; an f-string counts as its text."""
    before = ""
    kind = tokenize.NEWLINE
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        number = token.start[0]
        if before == "def" and NAMES.search(token.string):
            yield Line(number, token.string.replace("_", " "), opens=False)
        elif token.type == tokenize.COMMENT and "noqa" not in token.string:
            yield Line(number, token.string, opens=kind != tokenize.COMMENT)
        elif token.type in (tokenize.STRING, _FSTRING):
            text = _QUOTES.sub("", token.string)
            for index, part in enumerate(text.split("\n")):
                opens = index == 0 and kind in _STATEMENT_STARTS
                yield Line(number + index, part, opens=opens)
        if token.type != tokenize.NL:
            before, kind = token.string, token.type


def markdown_lines(source: str) -> Iterator[Line]:
    """Yield the prose of a Markdown file, without its code blocks."""
    fenced = False
    for number, text in enumerate(source.split("\n"), start=1):
        if _FENCE.match(text):
            fenced = not fenced
        elif not fenced:
            opens = text.lstrip().startswith(("#", "-", "*", ":"))
            yield Line(number, text, opens=opens)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
