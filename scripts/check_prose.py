# SPDX-License-Identifier: Apache-2.0

"""Refuses wording that the style of this repository rules out.

Usage::

    python scripts/check_prose.py            # every tracked Python and Markdown file
    python scripts/check_prose.py docs src   # files below these

The rule is one sentence: the subject is a noun of the glossary (``docs/glossary.md``),
and the verb says what it does. A regular expression sees only some of the sentences
that break it; this script refuses those. In Python files it reads comments, docstrings,
other string literals and the names of functions.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

PATTERNS = {
    r"(?:^|[.:] )(?:Of|Who|Whose|Whoever|Nobody|Somebody) [a-z`*]": "a sentence "
    "without a subject; name the request, the engine or the caller",
    r"^What (?!is |are |does |do |can |should |if )[a-z`*]": "a heading or docstring "
    "without a subject; start with the noun or the verb",
    r"\b(?:nobody|somebody|whoever|anybody|everybody)\b": "name who: the caller, the "
    "thread, the backend",
    r"\b(?:told|tells?|telling)\b": "say which part does what: returns, raises, "
    "reports, logs",
    r"(?<![Tt]here )\bis no (?!longer\b|more\b|less\b)[a-z]+": "write 'is not a …'",
    r"\b[Ww]ho (?:waits?|was|came|comes|has|asks?|wants?|uses|runs)\b": "name the "
    "caller, the thread or the request",
    r"\bAs in `": "say it here in a line",
    r"\bend ids?\b": "write 'EOS token' or 'EOS token id'",
    r"\b(?:bring|brings|take|takes) (?:news|notice)\b": "name the "
    "action: record, hand over",
    r"\bdoors?\b": "write 'entry path' or 'argument class'",
}
"""Patterns, and advice for each."""

NAMES = re.compile(r"_(?:nobody|somebody|whoever|told|tells|everybody|is_no)(?:_|$)")
"""Words that the name of a function may not contain."""

_RULES = [(re.compile(pattern), advice) for pattern, advice in PATTERNS.items()]
_KEPT = {"scripts/check_prose.py", "CHANGELOG.md", "LICENSE"}
_FSTRING = getattr(tokenize, "FSTRING_MIDDLE", None)
"""Text of an f-string from Python 3.12 on; older ones have one `STRING` token."""
_FENCE = re.compile(r"^\s*(?:```|~~~|:::)")


def main(arguments: list[str]) -> int:
    """Print each refused line and return how the process ends."""
    listed = ["git", "ls-files", "--", *(arguments or ["*.py", "*.md"])]
    files = subprocess.check_output(listed, text=True)  # noqa: S603 - git itself
    count = 0
    for name in files.split():
        path = Path(name)
        if name in _KEPT or path.suffix not in (".py", ".md") or not path.exists():
            continue
        lines = python_lines if path.suffix == ".py" else markdown_lines
        for number, text in lines(path.read_text(encoding="utf-8")):
            for advice in refused(text):
                print(f"{name}:{number}: {text.strip()}\n    {advice}")
                count += 1
    if count:
        print(f"{count} lines to reword.")
    return min(count, 1)


def refused(text: str) -> Iterator[str]:
    """Yield advice for each pattern that a line of prose matches."""
    text = text.strip().lstrip("#> ").strip()
    for rule, advice in _RULES:
        if rule.search(text):
            yield advice


def python_lines(source: str) -> Iterator[tuple[int, str]]:
    """Yield the prose of a Python file by line; f-strings count as their text."""
    previous = ""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NAME and previous == "def":
            if NAMES.search(token.string):
                yield token.start[0], token.string.replace("_", " ")
        elif token.type == tokenize.COMMENT and "noqa" not in token.string:
            yield token.start[0], token.string
        elif token.type == _FSTRING:
            yield from enumerate(token.string.split("\n"), start=token.start[0])
        elif token.type == tokenize.STRING:
            text = re.sub(
                r"^\w*(?:\"\"\"|'''|\"|')|(?:\"\"\"|'''|\"|')$", "", token.string
            )
            yield from enumerate(text.split("\n"), start=token.start[0])
        previous = token.string


def markdown_lines(source: str) -> Iterator[tuple[int, str]]:
    """Yield the prose of a Markdown file by line, without its code blocks."""
    fenced = False
    for number, line in enumerate(source.split("\n"), start=1):
        if _FENCE.match(line):
            fenced = not fenced and not line.strip().startswith(":::")
        elif not fenced:
            yield number, line


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
