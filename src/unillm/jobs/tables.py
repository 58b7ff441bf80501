# SPDX-License-Identifier: Apache-2.0

"""Tables: rows of CSV and Parquet files.

The journal of a job has the answers alone. Its end reads the input once more and puts
them beside the rows, so each column keeps its type.
"""

from __future__ import annotations

import abc
import contextlib
import csv
import io
import json
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
from typing_extensions import override

from ..errors import BatchInputError, ConfigError, InvalidPromptError
from .body import FIELDS
from .files import MAX_LINE_BYTES, open_for_reading, open_for_writing, unreadable
from .forms import (
    GENERATED,
    BadLineError,
    Form,
    Naming,
    Record,
    Scan,
    chosen,
    clash,
    encode,
    of_answer,
    of_error,
)
from .journal import Bits
from .line import Answer, Line

_BATCH_ROWS = 1024
"""Rows of a Parquet file that are in memory at a time."""

_decode = msgspec.json.Decoder(dict[str, Any]).decode


class _Table(Form):
    """The common part of both kinds."""

    only_answers = True

    @abc.abstractmethod
    def _names(self, path: Path) -> list[str]:
        """Return the columns of a file."""

    def _check_columns(self) -> None:
        """Check the columns of all files before a row is read."""
        first = self._names(self.paths[0])
        if twice := [name for name in first if first.count(name) > 1]:
            raise BatchInputError(
                f"{self.paths[0]} has two columns {twice[0]!r}, so a row would lose "
                "one of them. Rename one."
            )
        for path in self.paths[1:]:
            if (names := self._names(path)) != first:
                raise BatchInputError(
                    f"{path} has the columns {', '.join(names)}, and {self.paths[0]} "
                    f"has {', '.join(first)}. Files of one job have the same."
                )
        used = self.columns or first
        if missing := [name for name in used if name not in first]:
            raise ConfigError(
                f"--columns names {missing[0]!r}, and the input has {', '.join(first)}."
            )
        if reason := clash(used):
            raise ConfigError(reason)

    @override
    def line(self, record: Record, naming: Naming) -> Line:
        if isinstance(record.content, list):
            raise BadLineError("The row has another number of fields than the header.")
        row = self._values(chosen(record.content, self.columns))
        try:
            url, body = self.bodies.of_row(row)
        except InvalidPromptError as error:
            raise BadLineError(str(error)) from error
        request_id, seed = naming.of(str(record.index))
        return Line(
            record.index, url, body, request_id, naming.created, seed, is_row=True
        )

    @abc.abstractmethod
    def _values(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return a row as a line of JSON would have it."""

    @override
    def finished(self, record: Record, line: Line, answer: Answer) -> bytes:
        return encode(of_answer(answer))

    @override
    def copied(self, record: Record, line: Line, other: bytes) -> bytes:
        return other

    @override
    def bad(self, record: Record, error: BadLineError, naming: Naming) -> bytes:
        return encode(of_error(f"{record.place}: {error}"))


class CsvRows(_Table):
    """Rows of CSV files, whose first row names the columns.

    A field of the body that is not the prompt is read as JSON, or else as text; an
    empty one counts as absent.
    """

    name = "CSV"
    suffixes = (".csv",)

    @override
    def _names(self, path: Path) -> list[str]:
        with contextlib.closing(self._rows(path)) as rows:
            return next(rows, [])

    @override
    def scan(self, work: Path) -> Scan:
        self._check_columns()
        scan = Scan()
        for record in self.records():
            scan.num_lines += 1
            if isinstance(record.content, list):
                scan.add_bad(record, "another number of fields than the header")
        return scan

    def _rows(self, path: Path) -> Generator[list[str], None, None]:
        limit = csv.field_size_limit()
        if limit < MAX_LINE_BYTES:  # one for all readers of the process
            csv.field_size_limit(MAX_LINE_BYTES)
        try:
            with (
                open_for_reading(path) as stream,
                io.TextIOWrapper(stream, "utf-8-sig", newline="") as text,
            ):
                yield from csv.reader(text)
        except (OSError, EOFError, ValueError, csv.Error) as error:
            raise unreadable(path, error) from error

    @override
    def records(self) -> Iterator[Record]:
        index = 0
        for path in self.paths:
            rows = self._rows(path)
            names = next(rows, [])
            for number, row in enumerate(rows, 2):
                if not row:
                    continue  # an empty line
                fits = len(row) == len(names)
                content = dict(zip(names, row, strict=True)) if fits else row
                yield Record(index, content, path, number)
                index += 1

    @override
    def _values(self, row: dict[str, Any]) -> dict[str, Any]:
        return {
            name: _from_text(text) if name in FIELDS and name != "prompt" else text
            for name, text in row.items()
            if text or name not in FIELDS
        }

    @override
    def write(self, path: Path, name: str, finished: Iterable[bytes]) -> None:
        names = self.columns or self._names(self.paths[0])
        with _text_of(path, name) as text:
            writer = csv.writer(text)
            writer.writerow([*names, *GENERATED])
            for record, answer in zip(self.records(), finished, strict=True):
                fits = isinstance(record.content, dict)
                row = chosen(record.content, names) if fits else {}
                columns = _decode(answer)
                writer.writerow(
                    [row.get(each, "") for each in names]
                    + [columns[each] for each in GENERATED]
                )

    @override
    def write_some(self, path: Path, name: str, which: Bits) -> None:
        names = self._names(self.paths[0])
        with _text_of(path, name) as text:
            writer = csv.writer(text)
            writer.writerow(names)
            for record in self.records():
                if record.index in which:
                    row = record.content
                    writer.writerow(row.values() if isinstance(row, dict) else row)


def _from_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


@contextlib.contextmanager
def _text_of(path: Path, name: str) -> Iterator[io.TextIOWrapper]:
    with (
        open_for_writing(path, name) as stream,
        io.TextIOWrapper(stream, "utf-8", newline="") as text,
    ):
        yield text


class ParquetRows(_Table):
    """Rows of Parquet files."""

    name = "Parquet"
    suffixes = (".parquet",)

    @override
    def _names(self, path: Path) -> list[str]:
        with self._opened(path) as file:
            return list(file.schema_arrow.names)

    @override
    def scan(self, work: Path) -> Scan:
        self._check_columns()
        scan = Scan()
        for path in self.paths:
            with self._opened(path) as file:
                scan.num_lines += file.metadata.num_rows
        return scan

    @contextlib.contextmanager
    def _opened(self, path: Path) -> Iterator[Any]:
        import pyarrow as pa
        from pyarrow import parquet

        try:
            with parquet.ParquetFile(path) as file:
                yield file
        except (OSError, pa.ArrowException) as error:
            raise unreadable(path, error) from error

    def _batches(self, columns: Sequence[str] | None) -> Iterator[tuple[Path, Any]]:
        for path in self.paths:
            with self._opened(path) as file:
                chosen_columns = None if columns is None else list(columns)
                for batch in file.iter_batches(_BATCH_ROWS, columns=chosen_columns):
                    yield path, batch

    @override
    def records(self) -> Iterator[Record]:
        index, before, number = 0, None, 0
        for path, batch in self._batches(self.columns):
            number = number if path == before else 0
            before = path
            for row in batch.to_pylist():
                number += 1
                yield Record(index, row, path, number)
                index += 1

    @override
    def _values(self, row: dict[str, Any]) -> dict[str, Any]:
        messages = row.get("messages")
        if isinstance(messages, list):  # a struct has all fields of all rows
            row["messages"] = [_without_nulls(each) for each in messages]
        return row

    @override
    def write(self, path: Path, name: str, finished: Iterable[bytes]) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        kinds = [pa.string()] * 2 + [pa.int64()] * 2 + [pa.string()]
        answers = iter(finished)
        with self._opened(self.paths[0]) as file:
            schema = file.schema_arrow
        if self.columns is not None:
            schema = pa.schema([schema.field(each) for each in self.columns])
        for each, kind in zip(GENERATED, kinds, strict=True):
            schema = schema.append(pa.field(each, kind))
        with parquet.ParquetWriter(path, schema) as writer:
            for _, batch in self._batches(self.columns):
                rows = [_decode(each) for each in islice(answers, batch.num_rows)]
                arrays = [batch.column(each) for each in schema.names[: -len(kinds)]]
                for each, kind in zip(GENERATED, kinds, strict=True):
                    arrays.append(pa.array([row[each] for row in rows], kind))
                writer.write_batch(pa.record_batch(arrays, schema=schema))

    @override
    def write_some(self, path: Path, name: str, which: Bits) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        with self._opened(self.paths[0]) as file:
            schema = file.schema_arrow
        index = 0
        with parquet.ParquetWriter(path, schema) as writer:
            for _, batch in self._batches(None):
                wanted = [index + n in which for n in range(batch.num_rows)]
                index += batch.num_rows
                if any(wanted):
                    writer.write_batch(batch.filter(pa.array(wanted)))


def _without_nulls(message: Any) -> Any:
    if not isinstance(message, Mapping):
        return message
    return {name: value for name, value in message.items() if value is not None}
