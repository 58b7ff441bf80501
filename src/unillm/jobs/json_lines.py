# SPDX-License-Identifier: Apache-2.0

"""JSON lines: lines of OpenAI's batch format, or rows with prompts or messages."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
from typing_extensions import override

from ..errors import BatchInputError, InvalidPromptError
from .files import open_for_writing, read_lines
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
from .ids import EqualLines
from .journal import Bits
from .line import Answer, Line
from .reading import INVALID, as_envelope, is_envelope, read_envelope, read_row

_SHOWN = 5
_value = msgspec.json.Decoder().decode


class _JsonLines(Form):
    """The common part of both kinds."""

    suffixes = (".jsonl", ".ndjson", ".json", "")
    only_answers = False

    @override
    def records(self) -> Iterator[Record]:
        index = 0
        for path in self.paths:
            for number, raw in read_lines(path):
                yield Record(index, raw and raw.strip(), path, number)
                index += 1

    @override
    def write(self, path: Path, name: str, finished: Iterable[bytes]) -> None:
        with open_for_writing(path, name) as stream:
            for line in finished:
                stream.write(line + b"\n")

    @override
    def write_some(self, path: Path, name: str, which: Bits) -> None:
        some = (each.content for each in self.records() if each.index in which)
        self.write(path, name, (raw for raw in some if raw is not None))


class BatchLines(_JsonLines):
    """Lines of OpenAI's batch format."""

    name = "batch lines"

    @override
    def scan(self, work: Path) -> Scan:
        scan, equal = Scan(), EqualLines(work)
        try:
            for record in self.records():
                scan.num_lines += 1
                try:
                    custom_id = read_envelope(record.content).custom_id
                except BadLineError as error:
                    scan.add_bad(record, error)
                else:
                    equal.add(record.index, str(custom_id).encode())
            if same := list(islice(equal.pairs(), _SHOWN)):
                raise self._doubled(same)
        finally:
            equal.close()
        return scan

    def _doubled(self, same: list[tuple[int, int]]) -> BatchInputError:
        wanted = {index for pair in same for index in pair}
        places = {each.index: each for each in self.records() if each.index in wanted}
        shown = []
        for first, later in same:
            custom_id = read_envelope(places[later].content).custom_id
            shown.append(
                f"  {places[later].place} has {custom_id!r} of {places[first].place}"
            )
        return BatchInputError(
            "Several lines have one custom_id, so nothing would distinguish their "
            "answers:\n" + "\n".join(shown) + "\nGive each line its own."
        )

    @override
    def line(self, record: Record, naming: Naming) -> Line:
        found = read_envelope(record.content)
        request_id, seed = naming.of(str(found.custom_id))
        url = str(found.url)
        body = self.bodies.complete(url, bytes(found.body))
        return Line(record.index, url, body, request_id, naming.created, seed)

    @override
    def finished(self, record: Record, line: Line, answer: Answer) -> bytes:
        custom_id = encode(as_envelope(record.content).custom_id)
        return (
            b'{"id":"batch_req_%b","custom_id":%b,"response":{"status_code":%d,'
            b'"request_id":"%b","body":%b},"error":null}'
            % (
                line.request_id.encode(),
                custom_id,
                answer.status,
                line.request_id.encode(),
                answer.body,
            )
        )

    @override
    def copied(self, record: Record, line: Line, other: bytes) -> bytes:
        response = _value(other)["response"]
        # The ids are parts of the body, too.
        body = encode(response["body"]).replace(
            response["request_id"].encode(), line.request_id.encode()
        )
        answer = Answer(line.index, response["status_code"], body)
        return self.finished(record, line, answer)

    @override
    def bad(self, record: Record, error: BadLineError, naming: Naming) -> bytes:
        request_id, _ = naming.of(f"line {record.index}")
        custom_id = None
        with contextlib.suppress(*INVALID):
            custom_id = as_envelope(record.content or b"").custom_id
        return encode(
            {
                "id": f"batch_req_{request_id}",
                "custom_id": custom_id,
                "response": None,
                "error": {
                    "code": error.code,
                    "message": f"{record.place}: {error}",
                },
            }
        )


class JsonRows(_JsonLines):
    """Rows: objects with a prompt or messages, or texts alone."""

    name = "JSON rows"

    @override
    def scan(self, work: Path) -> Scan:
        scan = Scan()
        for record in self.records():
            scan.num_lines += 1
            try:
                if record.content is None or record.content[:1] not in b'{"':
                    self._row(record)
                elif record.content[:1] == b"{":
                    is_envelope(record.content)
            except (BadLineError, *INVALID) as error:
                scan.add_bad(record, error)
        return scan

    def _row(self, record: Record) -> dict[str, Any]:
        return chosen(read_row(record.content), self.columns)

    @override
    def line(self, record: Record, naming: Naming) -> Line:
        row = self._row(record)
        if reason := clash(row):
            raise BadLineError(reason)
        try:
            url, body = self.bodies.of_row(row)
        except InvalidPromptError as error:
            raise BadLineError(str(error)) from error
        request_id, seed = naming.of(str(record.index))
        return Line(
            record.index, url, body, request_id, naming.created, seed, is_row=True
        )

    @override
    def finished(self, record: Record, line: Line, answer: Answer) -> bytes:
        return encode({**self._row(record), **of_answer(answer)})

    @override
    def copied(self, record: Record, line: Line, other: bytes) -> bytes:
        answered = _value(other)
        columns = {name: answered[name] for name in GENERATED}
        return encode({**self._row(record), **columns})

    @override
    def bad(self, record: Record, error: BadLineError, naming: Naming) -> bytes:
        try:
            row = self._row(record)
        except BadLineError:
            row = {}
        return encode({**row, **of_error(f"{record.place}: {error}")})


def is_batch(paths: Iterable[Path]) -> bool:
    """Whether the first line that is a JSON object is one of OpenAI's batch format."""
    for path in paths:
        for _, raw in read_lines(path):
            if raw is None:
                continue
            try:
                return is_envelope(raw)
            except msgspec.ValidationError:
                return False  # a text
            except INVALID:
                continue
    return False
