# SPDX-License-Identifier: Apache-2.0

"""GBNF, the notation of llama.cpp, in Lark's notation as llguidance reads it.

GBNF has no lexer: every rule is about characters. llguidance has one, which takes the
longest match, so ``root ::= ("a" | "ab") "bc"`` with the strings as tokens of the lexer
would not match "abc". Here each character becomes a token of its own, and the grammar
keeps its meaning.

References:
    grammars/README.md and src/llama-grammar.cpp of ggml-org/llama.cpp, for the
    notation. llguidance has a converter too (``llguidance.gbnf_to_lark``, 1.9.1); it
    makes tokens of strings and of whole rules, and with them the arithmetic grammar of
    llama.cpp matches no sum.
"""

from __future__ import annotations

import json
import re
import sys

MAX_DEPTH = 64
"""Deepest nesting of parentheses."""

_BEGINNING = re.compile(r"^[ \t]*root[ \t]*::=", re.MULTILINE)
_RULE = re.compile(r"([\w-]+)[ \t]*::=")
_NAME = re.compile(r"[\w-]+")
_REPEAT = re.compile(r"\{\s*(\d+)?\s*(,?)\s*(\d+)?\s*\}")
_ESCAPE = re.compile(
    r"\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))", re.DOTALL
)
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t"} | {c: c for c in '\\"[]^-'}
_ANY = r"/[\x{0}-\x{10FFFF}]/"


def is_gbnf(text: str) -> bool:
    """Whether a grammar is in GBNF: it defines the rule ``root`` with ``::=``."""
    return _BEGINNING.search(text) is not None


def lark_of_gbnf(text: str) -> str:
    """Return the grammar in Lark's notation; ``root`` becomes ``start``.

    Raises:
        ValueError: The text is not GBNF; names the line.
    """
    return _Reader(text).lark()


class _Reader:
    """Reads a grammar from left to right.

    Each method begins at the position, moves it behind what it has read, and returns
    that in Lark's notation.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._names: dict[str, str] = {"root": "start"}
        self._used: dict[str, int] = {}  # by name, its first position
        self._depth = 0

    def lark(self) -> str:
        rules: dict[str, str] = {}
        self._skip()
        while self._at < len(self._text):
            match = _RULE.match(self._text, self._at)
            if match is None:
                raise self._wrong("a rule `name ::= …` was expected")
            name = match[1]
            if name in rules:
                raise self._wrong(f"the rule {name!r} is defined twice")
            self._at = match.end()
            self._skip()
            rules[name] = f"{self._name(name)}: {self._alternatives()}"
        for name, at in self._used.items():
            if name not in rules:
                self._at = at
                raise self._wrong(f"the rule {name!r} is not defined")
        return "\n".join(rules.values())

    def _alternatives(self) -> str:
        options = [self._sequence()]
        while self._here() == "|":
            self._at += 1
            self._skip()
            options.append(self._sequence())
        return " | ".join(options)

    def _sequence(self) -> str:
        items: list[str] = []
        while True:
            self._skip()
            item = self._item()
            if item is None:
                return " ".join(items) or '""'
            self._skip()
            items.append(item + self._repeat())

    def _item(self) -> str | None:
        """Return `None` where no item begins."""
        here = self._here()
        if here == '"':
            return self._literal()
        if here == "[":
            return self._class()
        if here == "(":
            return self._group()
        if here == ".":
            self._at += 1
            return _ANY
        match = _NAME.match(self._text, self._at)
        if match and not _RULE.match(self._text, self._at):
            self._used.setdefault(match[0], self._at)
            self._at = match.end()
            return self._name(match[0])
        if match or here in ("", "|", ")"):
            return None
        raise self._wrong(
            f"{here!r} is not supported; strings, character classes, names, groups and "
            "repetitions are"
        )

    def _group(self) -> str:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._wrong(f"parentheses are more than {MAX_DEPTH} levels deep")
        self._at += 1
        inner = self._alternatives()
        if self._here() != ")":
            raise self._wrong("`)` was expected")
        self._at += 1
        self._depth -= 1
        return f"({inner})"

    def _repeat(self) -> str:
        """Return an empty text where no repetition begins."""
        here = self._here()
        if here and here in "*+?":
            self._at += 1
            return here
        if here != "{":
            return ""
        match = _REPEAT.match(self._text, self._at)
        if match is None or not (match[1] or match[3]):
            raise self._wrong("a repetition `{m}`, `{m,}` or `{m,n}` was expected")
        least, comma, most = match[1] or "0", match[2], match[3] or ""
        if most and int(most) < int(least):
            raise self._wrong(f"the repetition {match[0]} ends before it begins")
        self._at = match.end()
        return f"{{{least},{most}}}" if comma else f"{{{least}}}"

    def _literal(self) -> str:
        self._at += 1
        characters = []
        while self._here() != '"':
            characters.append(json.dumps(self._character(), ensure_ascii=False))
        self._at += 1
        return f"({' '.join(characters)})" if characters else '""'

    def _class(self) -> str:
        self._at += 1
        negated = self._here() == "^"
        self._at += negated
        ranges = []
        while self._here() != "]":
            low = high = self._character()
            if self._here() == "-" and self._text[self._at + 1 : self._at + 2] != "]":
                self._at += 1
                high = self._character()
            if high < low:
                raise self._wrong(f"the range {low!r} to {high!r} is reversed")
            ranges.append(rf"\x{{{ord(low):X}}}-\x{{{ord(high):X}}}")
        self._at += 1
        if ranges:
            return f"/[{'^' if negated else ''}{''.join(ranges)}]/"
        if negated:
            return _ANY
        raise self._wrong("`[]` matches nothing")

    def _character(self) -> str:
        here = self._here()
        if not here:
            raise self._wrong("the grammar ends within a string or a character class")
        if here != "\\":
            self._at += 1
            return here
        match = _ESCAPE.match(self._text, self._at)
        character = _unescaped(match) if match else None
        if match is None or character is None:
            raise self._wrong("an escape such as `\\n` or `\\u00E9` was expected")
        self._at = match.end()
        return character

    def _name(self, name: str) -> str:
        return self._names.setdefault(name, f"r{len(self._names)}")

    def _skip(self) -> None:
        """Skip spaces, ends of lines and comments."""
        while (here := self._here()) and (here in " \t\r\n" or here == "#"):
            if here == "#":
                ends = (self._text.find(end, self._at) for end in "\r\n")
                self._at = min(
                    (end for end in ends if end >= 0), default=len(self._text)
                )
            else:
                self._at += 1

    def _here(self) -> str:
        return self._text[self._at : self._at + 1]

    def _wrong(self, why: str) -> ValueError:
        line = self._text.count("\n", 0, self._at) + 1
        rest = self._text[self._at : self._at + 20].partition("\n")[0]
        return ValueError(f"line {line}, at {rest!r}: {why}")


def _unescaped(match: re.Match[str]) -> str | None:
    """Return the character of an escape; `None` if there is none."""
    code = match[1] or match[2] or match[3]
    if code is None:
        return _ESCAPED.get(match[4])
    number = int(code, 16)
    if number > sys.maxunicode or 0xD800 <= number < 0xE000:
        return None
    return chr(number)
