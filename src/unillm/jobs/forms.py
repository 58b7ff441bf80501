# SPDX-License-Identifier: Apache-2.0

"""`Form`: how the files of a job hold its lines, in its input and in its output."""

from __future__ import annotations

import abc
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import msgspec

from ..protocol.errors import ErrorReply
from .body import Bodies
from .journal import Bits
from .line import Answer, Line

GENERATED = (
    "generated_text",
    "finish_reason",
    "num_prompt_tokens",
    "num_generated_tokens",
    "error",
)
"""Columns of the output besides those of the input."""

encode = msgspec.json.Encoder().encode


class Record(msgspec.Struct, frozen=True):
    """One line of the input, as it was read."""

    index: int
    """Number among all lines, from 0."""
    content: Any
    """Bytes of a JSON line, a row by columns, the fields of a row that does not fit the
    columns, or `None` for a line that is too long."""
    path: Path
    number: int
    """Number of its line or row in its file, from 1."""

    @property
    def place(self) -> str:
        """Its file and number, for messages."""
        return f"{self.path.name}, line {self.number}"


class BadLineError(Exception):
    """A line is not a request. It fails alone.

    Attributes:
        code: In the words of OpenAI's batch API, where it has any.
    """

    def __init__(self, message: str, code: str = "invalid_line") -> None:
        super().__init__(message)
        self.code = code


@attrs.define
class Scan:
    """Facts that one reading of the input has found."""

    num_lines: int = 0
    num_bad: int = 0
    """Lines that are not requests, as far as is known before the model is loaded."""
    first_bad: list[str] = attrs.field(factory=list)
    """Places and reasons of the first of them."""

    def add_bad(self, record: Record, reason: object) -> None:
        """Count a line that is not a request."""
        self.num_bad += 1
        if len(self.first_bad) < 5:
            self.first_bad.append(f"{record.place}: {reason}")


@attrs.frozen(kw_only=True)
class Naming:
    """Gives each line its ids and its seed, the same in each run of a job."""

    key: bytes
    """Digest of the job."""
    created: int
    """Seconds since the epoch at which the job began."""

    def of(self, name: str) -> tuple[str, int]:
        """Return the request id and the seed of a line that is called *name*."""
        digest = hashlib.blake2b(name.encode(), key=self.key, digest_size=24).digest()
        return digest[:16].hex(), int.from_bytes(digest[16:], "little") >> 1


class Form(abc.ABC):
    """The files of a job.

    Args:
        paths: Files of the input.
        bodies: Makes the bodies of lines.
        columns: Columns of rows to use; `None` for all.
    """

    name: str
    """For messages and the fingerprint of a job."""
    suffixes: tuple[str, ...]
    """Suffixes of files in this form."""
    only_answers: bool
    """Whether the journal has answers alone, which the end of the job puts beside the
    rows of the input."""

    def __init__(
        self,
        paths: Sequence[Path],
        bodies: Bodies,
        columns: Sequence[str] | None,
    ) -> None:
        self.paths = paths
        self.bodies = bodies
        self.columns = None if columns is None else tuple(columns)

    @abc.abstractmethod
    def scan(self, work: Path) -> Scan:
        """Read the whole input once.

        Args:
            work: Folder for temporary files.

        Raises:
            BatchInputError: A file cannot be read, or two lines have one id.
        """

    @abc.abstractmethod
    def records(self) -> Iterator[Record]:
        """Yield the lines of the input in order.

        Raises:
            BatchInputError: A file cannot be read.
        """

    @abc.abstractmethod
    def line(self, record: Record, naming: Naming) -> Line:
        """Return the request of a line.

        Raises:
            BadLineError: The line is not a request.
        """

    @abc.abstractmethod
    def finished(self, record: Record, line: Line, answer: Answer) -> bytes:
        """Return a line of the journal."""

    @abc.abstractmethod
    def copied(self, record: Record, line: Line, other: bytes) -> bytes:
        """Return a line of the journal with the answer of another one.

        Args:
            record: The line.
            line: Its request.
            other: The line of the journal for an equal request.
        """

    @abc.abstractmethod
    def bad(self, record: Record, error: BadLineError, naming: Naming) -> bytes:
        """Return the line of the journal for a line that is not a request."""

    @abc.abstractmethod
    def write(self, path: Path, name: str, finished: Iterable[bytes]) -> None:
        """Write the output.

        Args:
            path: File to write.
            name: Name that it will have, whose suffix says how it is compressed.
            finished: All lines of the journal, in order if `only_answers`.
        """

    @abc.abstractmethod
    def write_some(self, path: Path, name: str, which: Bits) -> None:
        """Write some lines of the input to a file that can be an input."""


def of_answer(answer: Answer) -> dict[str, Any]:
    """Return the columns of `GENERATED` for an answer."""
    if answer.status == 200:
        return {
            "generated_text": answer.text,
            "finish_reason": answer.finish_reason,
            "num_prompt_tokens": answer.num_prompt_tokens,
            "num_generated_tokens": answer.num_new_tokens,
            "error": None,
        }
    return of_error(msgspec.json.decode(answer.body)["error"]["message"])


def of_error(message: str) -> dict[str, Any]:
    """Return the columns of `GENERATED` for a row that failed."""
    return {**dict.fromkeys(GENERATED), "error": message}


def error_body(error: BadLineError) -> bytes:
    """Return a line's error as the server would answer it."""
    return encode(ErrorReply(400, str(error), code=error.code).body())


def clash(columns: Iterable[str]) -> str | None:
    """Say which columns of a row the output has already; `None` for none."""
    same = [name for name in columns if name in GENERATED]
    if not same:
        return None
    return (
        f"The column {same[0]!r} has the name of a column of the output. Rename it, or "
        "name the columns to use with --columns."
    )


def chosen(row: Mapping[str, Any], columns: Sequence[str] | None) -> dict[str, Any]:
    """Return the columns of a row that are used."""
    if columns is None:
        return dict(row)
    return {name: row[name] for name in columns if name in row}
