# SPDX-License-Identifier: Apache-2.0

"""Prompts of the command line: from its arguments, a file or standard input.

A file is read while its prompts are submitted, so it may be larger than memory. A line
without a valid prompt is one failed prompt; the others continue.
"""

from __future__ import annotations

import contextlib
import enum
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO

import attrs
import typer

from ..errors import ConfigError, InvalidPromptError
from .reporting import is_terminal

STDIN = "-"
_FIELDS = {"prompt": "text", "prompt_token_ids": "token_ids", "messages": "messages"}
"""Key of a JSON line to field of `CliPrompt`. Other keys are ignored."""


class InputFormat(str, enum.Enum):
    """Format of the lines of a file."""

    AUTO = "auto"
    LINES = "lines"
    JSONL = "jsonl"


def file_option(panel: str | None = None) -> Any:
    """Return the option ``--file``."""
    return typer.Option(
        "--file",
        "-f",
        metavar="FILE",
        help="Read one prompt from each line of a file, or of standard input for -. "
        "Empty lines are skipped. JSON has prompt, prompt_token_ids or messages.",
        rich_help_panel=panel,
    )


def format_option(panel: str | None = None) -> Any:
    """Return the option ``--input-format``."""
    return typer.Option(
        help="Format of the file. auto reads .jsonl and .ndjson as JSON lines.",
        rich_help_panel=panel,
    )


@attrs.frozen(kw_only=True)
class CliPrompt:
    """One prompt as the user gave it: text, token ids, messages, or an error."""

    place: str
    """Where it stands, for messages: ``prompt 3`` or ``prompts.jsonl, line 4``."""
    text: str | None = None
    token_ids: list[Any] | None = None
    """A text beside them appears in the output and is not tokenised."""
    messages: list[Any] | None = None
    error: InvalidPromptError | None = None
    """Why the line has no valid prompt."""

    def as_input(self) -> dict[str, Any]:
        """Return the prompt as `Generator.submit` takes it."""
        if self.messages is not None:
            return {"messages": self.messages}
        if self.token_ids is not None:
            return {"prompt": self.text, "prompt_token_ids": self.token_ids}
        return {"prompt": self.text}


@contextlib.contextmanager
def open_prompts(
    arguments: Sequence[str], file: str | None, input_format: InputFormat
) -> Iterator[Iterator[CliPrompt]]:
    """Open the source of the prompts for a ``with`` block, and iterate over them.

    Args:
        arguments: The texts of the command line.
        file: Path; `STDIN` or `None` for standard input, if there are no arguments.
        input_format: Format of the file.

    Raises:
        ConfigError: There is no prompt; there are arguments and a file; the file cannot
            be opened; or standard input would be a terminal.
    """
    if arguments and file is not None:
        raise ConfigError("Give prompts as arguments or with --file, not both.")
    if arguments:
        yield (
            CliPrompt(place=f"prompt {number}", text=text)
            for number, text in enumerate(arguments, 1)
        )
        return
    if file is None and is_terminal(sys.stdin):
        raise ConfigError(
            "There is no prompt. Give one as an argument, a file with --file, or pipe "
            'text in: unillm generate "Count from 3 to 9:"'
        )
    name = "standard input" if file in (STDIN, None) else str(file)
    is_json = input_format is InputFormat.JSONL or (
        input_format is InputFormat.AUTO and name.endswith((".jsonl", ".ndjson"))
    )
    with _opened(STDIN if file is None else file) as lines:
        prompts = _read(lines, name, parse=_parsed if is_json else _as_text)
        first = next(prompts, None)
        if first is None:
            raise ConfigError(f"There is no prompt in {name}.")
        yield itertools.chain([first], prompts)


def _opened(file: str) -> AbstractContextManager[BinaryIO]:
    if file == STDIN:
        return contextlib.nullcontext(sys.stdin.buffer)
    try:
        return Path(file).expanduser().open("rb")
    except OSError as error:
        raise ConfigError(
            f"--file {file} cannot be read: {error.strerror or error}."
        ) from error


def _read(
    lines: Iterable[bytes], name: str, parse: Callable[[str], dict[str, Any]]
) -> Iterator[CliPrompt]:
    for number, line in enumerate(lines, 1):
        place = f"{name}, line {number}"
        try:
            text = _decoded(line, "utf-8-sig" if number == 1 else "utf-8")
            if text.strip():
                yield CliPrompt(place=place, **parse(text))
        except InvalidPromptError as error:
            yield CliPrompt(place=place, error=error)


def _decoded(line: bytes, encoding: str) -> str:
    try:
        return line.decode(encoding).rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise InvalidPromptError(f"The line is not UTF-8: {error}.") from error


def _as_text(line: str) -> dict[str, Any]:
    return {"text": line}


def _parsed(line: str) -> dict[str, Any]:
    """Return the fields of `CliPrompt` that a JSON line gives."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidPromptError(f"The line is not JSON: {error}.") from error
    if isinstance(entry, str):
        return {"text": entry}
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
    return {_FIELDS[key]: entry[key] for key in given}
