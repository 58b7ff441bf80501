# SPDX-License-Identifier: Apache-2.0

"""Journals that were cut off, damaged or filled, on real files."""

from __future__ import annotations

import errno
import os
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unillm.errors import BatchStorageError
from unillm.jobs import journal
from unillm.jobs.journal import INDEX, LINES, Journal, drop_failed, entries

NUM_LINES = 60


def write(folder, indexes, *, failed=()):
    """Make a journal of some lines, in this order."""
    folder.mkdir(exist_ok=True)
    found = Journal(folder, NUM_LINES)
    for index in indexes:
        found.append(index, line_of(index), failed=index in failed)
    found.close()


def line_of(index):
    return b'{"line": %d, "text": "%s"}' % (index, b"x" * (index % 7))


def read(folder):
    """Open a journal and return its lines, in its order."""
    found = Journal(folder, NUM_LINES)
    found.close()
    with (folder / LINES).open("rb") as stream:
        rows = []
        for entry in entries(folder):
            stream.seek(entry.offset)
            rows.append((entry.index, stream.read(entry.length)))
    assert found.done.count == len(rows)
    assert all(index in found.done for index, _ in rows)
    return rows


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "job"


def test_lines_come_back_in_the_order_in_which_they_ended(folder):
    order = random.Random(0).sample(range(NUM_LINES), 40)

    write(folder, order[:25])
    write(folder, order[25:])

    assert read(folder) == [(index, line_of(index)) for index in order]


@pytest.mark.property
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(index_bytes=st.integers(0, 20 * 24), line_bytes=st.integers(0, 700))
def test_any_beginning_of_its_files_is_a_journal_of_its_first_lines(
    tmp_path_factory, index_bytes, line_bytes
):
    folder = tmp_path_factory.mktemp("journal")
    write(folder, range(20))
    os.truncate(folder / INDEX, index_bytes)
    os.truncate(folder / LINES, min(line_bytes, (folder / LINES).stat().st_size))

    rows = read(folder)

    assert rows == [(index, line_of(index)) for index in range(len(rows))]
    write(folder, range(len(rows), 30))
    assert read(folder) == [(index, line_of(index)) for index in range(30)]


@pytest.mark.parametrize("tail", [b"\0" * 100, b"garbage", bytes(range(96))])
def test_garbage_at_the_end_is_cut(folder, tail):
    write(folder, range(5))
    for name in (INDEX, LINES):
        with (folder / name).open("ab") as stream:
            stream.write(tail)

    assert read(folder) == [(index, line_of(index)) for index in range(5)]
    assert (folder / INDEX).stat().st_size == 5 * 24


@pytest.mark.parametrize("name", [INDEX, LINES])
def test_damage_before_the_last_group_is_refused(folder, monkeypatch, name):
    write(folder, range(30))
    monkeypatch.setattr(journal, "MAX_GROUP", 10)
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 3] ^= 1
    (folder / name).write_bytes(content)

    with pytest.raises(BatchStorageError, match="is damaged: entry"):
        Journal(folder, NUM_LINES)

    assert bytes(content) == (folder / name).read_bytes()


def test_failed_lines_are_dropped_and_the_others_kept(folder):
    write(folder, range(10), failed={2, 9})

    dropped = drop_failed(folder)
    write(folder, [9, 2])

    assert dropped == 2
    assert [index for index, _ in read(folder)] == [0, 1, 3, 4, 5, 6, 7, 8, 9, 2]
    assert dict(read(folder))[9] == line_of(9)


def test_a_full_disk_is_an_error_and_keeps_what_was_synced(folder, monkeypatch):
    write(folder, range(5))
    found = Journal(folder, NUM_LINES)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(journal.os, "write", full)
    found.append(5, line_of(5), failed=False)

    with pytest.raises(BatchStorageError, match="No space left on device"):
        found.close()

    monkeypatch.undo()
    assert [index for index, _ in read(folder)] == list(range(5))


def test_any_error_that_ends_the_writing_is_raised(folder, monkeypatch):
    folder.mkdir()
    found = Journal(folder, NUM_LINES)

    def fail(*_, **__):
        raise MemoryError("there is no memory")

    monkeypatch.setattr(journal, "pack", fail)
    found.append(0, line_of(0), failed=False)

    with pytest.raises(MemoryError, match="no memory"):
        found.close()


def test_a_slow_disk_holds_the_job_back(folder, monkeypatch):
    monkeypatch.setattr(journal, "MAX_PENDING_BYTES", 100)
    folder.mkdir()
    found = Journal(folder, NUM_LINES)

    for index in range(NUM_LINES):
        found.append(index, line_of(index), failed=False)
        assert found._appended_bytes - found._committed_bytes < 200

    found.close()
    assert len(read(folder)) == NUM_LINES
