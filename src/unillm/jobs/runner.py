# SPDX-License-Identifier: Apache-2.0

"""`answer_lines`: reads lines, lets a worker answer them, and journals the answers.

Reading, generating and writing overlap. Memory is bounded: a limited number of lines,
and of their bytes, is under way.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from ..errors import QueueFullError
from .forms import BadLineError, Form, Naming, Record
from .journal import Journal
from .line import Line, Worker
from .progress import Progress

MAX_BYTES_UNDER_WAY = 32 * 2**20
"""Bytes of the lines under way at most; a longer line goes alone."""

_TAKE_EVERY = 64
"""Lines that are submitted between two looks at the answers."""


@attrs.define
class Runner:
    """Takes the lines of one job to a worker, and the answers to the journal."""

    form: Form
    naming: Naming
    journal: Journal
    worker: Worker
    progress: Progress
    _under_way: dict[int, tuple[Record, Line]] = attrs.field(factory=dict, init=False)
    _bytes: int = attrs.field(default=0, init=False)

    def run(self, records: Iterable[Record]) -> None:
        """Answer lines; those that are no requests get their errors.

        Raises:
            EngineError: The engine died. What had ended is in the journal.
            BatchInputError: A file cannot be read.
            BatchStorageError: The disk is full or failed.
        """
        capacity = self.worker.capacity
        for number, record in enumerate(records):
            try:
                line = self.form.line(record, self.naming)
            except BadLineError as error:
                bad = self.form.bad(record, error, self.naming)
                self.journal.append(record.index, bad, failed=True)
                self.progress.add_lines(1, failed=True)
                continue
            size = len(line.body)
            while self._under_way and (
                len(self._under_way) >= capacity
                or self._bytes + size > MAX_BYTES_UNDER_WAY
            ):
                self._take(None)
            self._submit(record, line)
            if number % _TAKE_EVERY == 0:
                self._take(0)
        while self._under_way:
            self._take(None)

    def _submit(self, record: Record, line: Line) -> None:
        self._under_way[record.index] = record, line
        self._bytes += len(line.body)
        while not self._try(line):
            self._take(None)

    def _try(self, line: Line) -> bool:
        """Submit a line; false if the queue is full and others will leave it."""
        try:
            self.worker.submit(line)
        except QueueFullError:
            if len(self._under_way) == 1:
                raise
            return False
        return True

    def _take(self, timeout_s: float | None) -> None:
        for answer in self.worker.answers(timeout_s):
            record, line = self._under_way.pop(answer.index)
            self._bytes -= len(line.body)
            finished = self.form.finished(record, line, answer)
            failed = answer.status != 200
            self.journal.append(answer.index, finished, failed=failed)
            self.progress.add(answer)
