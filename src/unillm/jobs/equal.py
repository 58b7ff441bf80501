# SPDX-License-Identifier: Apache-2.0

"""Lines of a job that ask for the same greedy answer, and are answered once.

The first of equal lines is answered, and the others get its answer at the end of the
job. Which lines are equal is found by one more reading of the input, in bounded memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from .by_index import ByIndex
from .forms import BadLineError, Form, Naming, Record
from .ids import EqualLines
from .journal import LINES, Bits, Journal, entries
from .progress import Progress

_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Followers:
    """The lines that equal an earlier one.

    Args:
        form: Files of the job.
        naming: Names of its lines.
        folder: Folder of the job.
        num_lines: Lines of the input.
    """

    def __init__(
        self, form: Form, naming: Naming, folder: Path, num_lines: int
    ) -> None:
        self._form = form
        self._naming = naming
        self._folder = folder
        self._leaders = ByIndex(folder / "leaders", "<Q", num_lines)
        self.lines = Bits(num_lines)
        equal = EqualLines(folder)
        try:
            for record in form.records():
                if (key := self._key(record)) is not None:
                    equal.add(record.index, key)
            for leader, index in equal.pairs():
                self._leaders.put(index, leader)
                self.lines.add(index)
        finally:
            equal.close()

    def _key(self, record: Record) -> bytes | None:
        """Return what the answer of a greedy line depends on; `None` for another."""
        try:
            line = self._form.line(record, self._naming)
            temperature = _decode(line.body).get("temperature")
        except (BadLineError, msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return None
        if type(temperature) not in (int, float) or temperature != 0:
            return None
        return line.url.encode() + b"\0" + line.body

    def write(self, journal: Journal, progress: Progress) -> int:
        """Give the lines that are not done the answers of their leaders.

        Args:
            journal: A journal in the same folder, which has all leaders.
            progress: Counts the lines.

        Returns:
            The number of lines.
        """
        journal.flush()
        size = journal.num_lines
        places = ByIndex(self._folder / "places", "<QI", size)
        count = 0
        try:
            for entry in entries(self._folder):
                places.put(entry.index, entry.offset, entry.length)
            with (self._folder / LINES).open("rb", buffering=2**16) as lines:
                for record, leader in self._pairs():
                    if record.index in journal.done:
                        continue
                    offset, length = places.get(leader)
                    lines.seek(offset)
                    answered = lines.read(length)
                    failed = leader in journal.failed
                    line = self._form.line(record, self._naming)
                    copied = self._form.copied(record, line, answered)
                    journal.append(record.index, copied, failed=failed)
                    progress.add_lines(1, failed=failed)
                    count += 1
        finally:
            places.close()
        return count

    def _pairs(self) -> Iterator[tuple[Record, int]]:
        for record, (leader,) in zip(self._form.records(), self._leaders, strict=True):
            if record.index in self.lines:
                yield record, leader

    def close(self) -> None:
        """Delete the temporary files."""
        self._leaders.close()
