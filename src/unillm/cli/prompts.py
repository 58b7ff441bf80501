# SPDX-License-Identifier: Apache-2.0

"""Prompts of the command line: from its arguments, a file or standard input.

A file is read while its prompts are submitted, so it may be larger than memory. A line
without a valid prompt is one failed prompt; the others continue. JSON lines are those
of `unillm batch`.
"""

from __future__ import annotations

import contextlib
import enum
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import typer

from ..errors import BatchInputError, ConfigError, InvalidPromptError, RequestError
from .reporting import is_terminal

if TYPE_CHECKING:
    from ..jobs.body import Bodies
    from ..protocol.endpoints import Endpoint

STDIN = "-"
_STDIN = "standard input"
_JSON_SUFFIXES = (".jsonl", ".ndjson")


class InputFormat(str, enum.Enum):
    """How a file is split into prompts."""

    AUTO = "auto"
    LINES = "lines"
    JSONL = "jsonl"
    TEXT = "text"


def file_option(panel: str | None = None) -> Any:
    """Return the option ``--file``."""
    return typer.Option(
        "--file",
        "-f",
        metavar="FILE",
        help="Read prompts from a file, or from standard input for -: one a line, "
        "unless --input-format says otherwise. Empty lines are skipped.",
        rich_help_panel=panel,
    )


def format_option(panel: str | None = None) -> Any:
    """Return the option ``--input-format``."""
    return typer.Option(
        help="Take each line as a prompt (lines) or as JSON (jsonl), or the whole file "
        "as one prompt (text). auto: JSON for .jsonl and .ndjson, else lines.",
        rich_help_panel=panel,
    )


@attrs.frozen(kw_only=True)
class CliPrompt:
    """One prompt, or the reason why there is none."""

    place: str
    """Where it comes from, such as ``prompts.jsonl, line 4``."""
    text: str | None = None
    """The prompt, if it is a text."""
    endpoint: Endpoint | None = None
    """The request of a JSON line."""
    own: tuple[str, ...] = ()
    """Names of the fields that a JSON line has besides its prompt."""
    ids: Mapping[str, Any] = attrs.field(factory=dict)
    """``id`` or ``custom_id`` of a JSON line."""
    error: RequestError | None = None
    """Why the line has no valid prompt."""

    def as_input(self) -> dict[str, Any]:
        """Return the prompt as `Generator.submit` takes it, without other fields."""
        body = None if self.endpoint is None else self.endpoint.body
        if messages := getattr(body, "messages", None):
            return {"messages": messages}
        prompt = getattr(body, "prompt", self.text)
        if isinstance(prompt, list):
            return {"prompt_token_ids": prompt}
        return {"prompt": prompt}


@contextlib.contextmanager
def open_prompts(
    arguments: Sequence[str],
    file: str | None,
    input_format: InputFormat,
    bodies: Bodies | None = None,
) -> Iterator[Iterator[CliPrompt]]:
    """Open the source of the prompts for a ``with`` block, and iterate over them.

    Args:
        arguments: The texts of the command line.
        file: Path; `STDIN` or `None` for standard input, if there are no arguments.
        input_format: How the file is split.
        bodies: Makes the requests of JSON lines; `None` for those without options.

    Raises:
        ConfigError: There is no prompt; there are arguments and a file; the file cannot
            be read; or standard input would be a terminal.
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
    path = None if file in (STDIN, None) else Path(os.path.expanduser(str(file)))
    prompts = _prompts(path, input_format, bodies)
    first = next(prompts, None)
    if first is None:
        raise ConfigError(f"There is no prompt in {path or _STDIN}.")
    yield itertools.chain([first], prompts)


def count_prompts(arguments: Sequence[str], file: str | None) -> int | None:
    """Return how many prompts there are at most; `None` for a pipe, read but once."""
    if arguments:
        return len(arguments)
    if file in (STDIN, None):
        return None
    from ..jobs.files import read_lines

    path = Path(os.path.expanduser(str(file)))
    return sum(1 for _ in read_lines(path)) if path.is_file() else None


def _prompts(
    path: Path | None, input_format: InputFormat, bodies: Bodies | None
) -> Iterator[CliPrompt]:
    """Yield the prompts of a file, or of standard input for `None`."""
    from ..jobs.files import lines_of, read_lines, suffix_of

    name = str(path or _STDIN)
    try:
        if input_format is InputFormat.TEXT:
            yield from _whole(path, name)
            return
        is_json = input_format is InputFormat.JSONL or (
            input_format is InputFormat.AUTO
            and path is not None
            and suffix_of(path) in _JSON_SUFFIXES
        )
        lines = lines_of(sys.stdin.buffer) if path is None else read_lines(path)
        yield from _each(lines, name, _json_parser(bodies) if is_json else _as_text)
    except BatchInputError as error:
        raise ConfigError(str(error)) from error


def _whole(path: Path | None, name: str) -> Iterator[CliPrompt]:
    """Yield the whole file as one prompt, without its last line's end."""
    from ..jobs.files import open_for_reading, unreadable

    try:
        with (
            contextlib.nullcontext(sys.stdin.buffer)
            if path is None
            else open_for_reading(path)
        ) as stream:
            content = stream.read()
    except (OSError, EOFError) as error:
        raise unreadable(Path(name), error) from error
    text = _decoded(content, "utf-8-sig").removesuffix("\n").removesuffix("\r")
    if text.strip():
        yield CliPrompt(place=name, text=text)


def _each(
    lines: Iterable[tuple[int, bytes | None]],
    name: str,
    parse: Callable[[bytes | None], dict[str, Any]],
) -> Iterator[CliPrompt]:
    for number, line in lines:
        place = f"{name}, line {number}"
        try:
            yield CliPrompt(place=place, **parse(line))
        except RequestError as error:
            yield CliPrompt(place=place, error=error)


def _decoded(line: bytes, encoding: str = "utf-8") -> str:
    try:
        return line.decode(encoding)
    except UnicodeDecodeError as error:
        raise InvalidPromptError(f"The text is not UTF-8: {error}.") from error


def _as_text(line: bytes | None) -> dict[str, Any]:
    if line is None:
        raise InvalidPromptError("The line is too long to be read.")
    return {"text": _decoded(line)}


def _json_parser(
    bodies: Bodies | None,
) -> Callable[[bytes | None], dict[str, Any]]:
    """Return a function that makes the fields of `CliPrompt` of a JSON line."""
    from ..jobs.body import Bodies
    from ..jobs.reading import read_request
    from ..protocol.endpoints import ENDPOINTS, AnswerSettings, Responses

    bodies, settings = bodies or Bodies(), AnswerSettings()
    known = [path for path in ENDPOINTS if path != Responses.path]

    def parse(line: bytes | None) -> dict[str, Any]:
        found = read_request(line, bodies)
        if found.url not in known:
            raise InvalidPromptError(
                f"A line may name {' or '.join(known)}, got {found.url[:80]!r}. unillm "
                "batch answers other endpoints."
            )
        endpoint = ENDPOINTS[found.url](found.body, settings)
        prompt = getattr(endpoint.body, "prompt", None)
        return {
            "endpoint": endpoint,
            "text": prompt if isinstance(prompt, str) else None,
            "own": found.own,
            "ids": found.ids,
        }

    return parse
