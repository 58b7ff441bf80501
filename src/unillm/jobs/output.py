# SPDX-License-Identifier: Apache-2.0

"""The output of a job whose lines are all in the journal.

It is written to the job's folder and takes its name when it is whole and synced. Lines
of JSON in any order need no copy: their journal becomes the output.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import attrs

from ..artifacts.records import sync_folder
from .by_index import ByIndex
from .files import COMPRESSIONS
from .folder import JobFolder, JobRecord
from .forms import Form
from .journal import INDEX, LINES, Bits, entries, storage_errors

_OUTPUT = "output"
_FAILED = "failed-lines"


def write_output(
    folder: JobFolder, form: Form, record: JobRecord, failed: Bits, *, any_order: bool
) -> JobRecord:
    """Write the output and the failed lines; return the record of the finished job.

    Raises:
        BatchStorageError: The disk is full or failed. The journal is whole.
        BatchInputError: A file of the input cannot be read any more.
    """
    output, path = folder.output, folder.path
    with storage_errors(output):
        _write_failed(folder, form, failed)
        if any_order and not form.only_answers and _is_output(path, output, failed):
            new = path / LINES
        else:
            new = path / _OUTPUT
            lines = _in_any_order(path)
            if form.only_answers or not any_order:
                lines = _in_order(path, record.num_lines)
            form.write(new, output.name, lines)
            _sync(new)
        record = attrs.evolve(
            record,
            output_bytes=new.stat().st_size,
            moved_from=new.name,
            num_failed=failed.count,
        )
        folder.write(record)
        new.replace(output)
        sync_folder(output.parent)
    return finish(folder, record)


def finish(folder: JobFolder, record: JobRecord) -> JobRecord:
    """Note that the output has its name; the journal stays only for failed lines."""
    record = attrs.evolve(record, finished=True)
    folder.write(record)
    folder.clear(keep_record=True, keep=(LINES, INDEX) if record.num_failed else ())
    return record


def _is_output(path: Path, output: Path, failed: Bits) -> bool:
    """Whether the journal's lines can become the output as they are."""
    if failed.count or output.name.endswith(COMPRESSIONS):
        return False  # the journal stays for --retry-failed
    used = sum(entry.length + 1 for entry in entries(path))
    return used == (path / LINES).stat().st_size


def _write_failed(folder: JobFolder, form: Form, failed: Bits) -> None:
    target = folder.failed_lines
    if not failed.count:
        target.unlink(missing_ok=True)  # of an earlier run of this job
        return
    new = folder.path / _FAILED
    form.write_some(new, target.name, failed)
    _sync(new)
    new.replace(target)


def _in_any_order(path: Path) -> Iterator[bytes]:
    with (path / LINES).open("rb", buffering=2**20) as stream:
        for entry in entries(path):
            stream.seek(entry.offset)
            yield stream.read(entry.length)


def _in_order(path: Path, num_lines: int) -> Iterator[bytes]:
    places = ByIndex(path / "order", "<QI", num_lines)
    try:
        for entry in entries(path):
            places.put(entry.index, entry.offset, entry.length)
        with (path / LINES).open("rb", buffering=2**20) as stream:
            for offset, length in places:
                stream.seek(offset)
                yield stream.read(length)
    finally:
        places.close()


def _sync(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
