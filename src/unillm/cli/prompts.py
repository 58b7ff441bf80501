# SPDX-License-Identifier: Apache-2.0

"""Prompts of the command line: from its arguments, a file or standard input.

A file is read as the prompts are needed, so it may be longer than memory. A line that
makes no sense is one failed prompt, and the others go on.
"""

from __future__ import annotations

import contextlib
import enum
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO

import attrs

from ..errors import ConfigError, InvalidPromptError
from .reporting import is_terminal

STDIN = "-"
_FIELDS = {"prompt": "text", "prompt_token_ids": "token_ids", "messages": "messages"}
"""Key of a JSON line to field of `CliPrompt`. Other keys are somebody else's."""


class InputFormat(str, enum.Enum):
    """How the lines of a file are read."""

    AUTO = "auto"
    LINES = "lines"
    JSONL = "jsonl"


@attrs.frozen(kw_only=True)
class CliPrompt:
    """One prompt as the user gave it: text, ids, messages, or why there is none."""

    place: str
    """Where it stands, for messages: ``prompt 3`` or ``prompts.jsonl, line 4``."""
    text: str | None = None
    token_ids: list[Any] | None = None
    """If there is a text too, it is only echoed."""
    messages: list[Any] | None = None
    error: InvalidPromptError | None = None
    """Why there is no prompt in its line."""


@attrs.frozen(kw_only=True)
class Source:
    """Where the prompts come from."""

    arguments: Sequence[str] = ()
    file: str | None = None
    """Path, `STDIN`, or `None` for the arguments."""
    input_format: InputFormat = InputFormat.AUTO

    @classmethod
    def choose(
        cls, arguments: Sequence[str], file: str | None, input_format: InputFormat
    ) -> Source:
        """Decide between arguments, file and standard input.

        Raises:
            ConfigError: Both are given, or neither and a person sits at the terminal.
        """
        if arguments and file is not None:
            raise ConfigError("Give prompts as arguments or with --file, not both.")
        if not arguments and file is None:
            if is_terminal(sys.stdin):
                raise ConfigError(
                    "There is no prompt. Give one as an argument, a file with --file, "
                    'or pipe text in: unillm generate "Count from 3 to 9:"'
                )
            file = STDIN
        return cls(arguments=arguments, file=file, input_format=input_format)

    @property
    def name(self) -> str:
        """For messages."""
        return "standard input" if self.file in (STDIN, None) else str(self.file)

    @property
    def total(self) -> int | None:
        """Number of prompts, where it is known before the end."""
        return len(self.arguments) if self.file is None else None

    @contextlib.contextmanager
    def open(self) -> Iterator[Iterator[CliPrompt]]:
        """Open the source for the time of a ``with`` block and iterate its prompts.

        Raises:
            ConfigError: The file cannot be opened.
        """
        if self.file is None:
            yield (
                CliPrompt(place=f"prompt {number}", text=text)
                for number, text in enumerate(self.arguments, 1)
            )
            return
        with self._open_file(self.file) as file:
            yield self._read(file)

    def _open_file(self, file: str) -> AbstractContextManager[BinaryIO]:
        if file == STDIN:
            return contextlib.nullcontext(sys.stdin.buffer)
        try:
            return Path(file).expanduser().open("rb")
        except OSError as error:
            raise ConfigError(
                f"--file {file} cannot be read: {error.strerror or error}."
            ) from error

    def _read(self, lines: Iterable[bytes]) -> Iterator[CliPrompt]:
        parse = _parse_json if self._is_jsonl() else _parse_text
        for number, line in enumerate(lines, 1):
            place = f"{self.name}, line {number}"
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                reason = InvalidPromptError(f"The line is not UTF-8: {error}.")
                yield CliPrompt(place=place, error=reason)
                continue
            text = text.rstrip("\r\n")
            if text.strip():
                yield parse(text, place)

    def _is_jsonl(self) -> bool:
        if self.input_format is InputFormat.AUTO:
            return str(self.file).endswith((".jsonl", ".ndjson"))
        return self.input_format is InputFormat.JSONL


def _parse_text(line: str, place: str) -> CliPrompt:
    return CliPrompt(place=place, text=line)


def _parse_json(line: str, place: str) -> CliPrompt:
    try:
        return _from_json(line, place)
    except InvalidPromptError as error:
        return CliPrompt(place=place, error=error)


def _from_json(line: str, place: str) -> CliPrompt:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidPromptError(f"The line is not JSON: {error}.") from error
    if isinstance(entry, str):
        return CliPrompt(place=place, text=entry)
    given = [key for key in _FIELDS if isinstance(entry, dict) and key in entry]
    if not given or ("messages" in given and len(given) > 1):
        found = f"has {' and '.join(given)}" if given else "has none of them"
        raise InvalidPromptError(
            f"A line is a JSON object with one of {', '.join(_FIELDS)}; this one "
            f"{found}."
        )
    for key in given:
        wanted = str if key == "prompt" else list
        if not isinstance(entry[key], wanted):
            raise InvalidPromptError(
                f"{key} must be a {'text' if wanted is str else 'list'}, got "
                f"{json.dumps(entry[key])[:80]}."
            )
    return CliPrompt(place=place, **{_FIELDS[key]: entry[key] for key in given})
