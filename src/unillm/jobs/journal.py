# SPDX-License-Identifier: Apache-2.0

"""The journal of a job: each finished line once, whatever ends the process.

Two files only grow. ``lines`` has the finished lines of output in the order in which
they ended, and ``index`` one entry of 24 bytes for each. A group of lines is written
and synced before its entries are, so an entry stands for a line that is on the disk.

An entry has a checksum over itself and its line. Opening a journal checks all entries:

- what an interrupted group has left at the end is cut;
- a wrong entry before that, or a wrong line, is damage of the disk, and refused.

Which lines are done is one bit for each line of the input.
"""

from __future__ import annotations

import contextlib
import os
import struct
import threading
import zlib
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import attrs

from ..artifacts.records import sync_folder
from ..errors import BatchStorageError, UnillmError

LINES = "lines"
INDEX = "index"

COMMIT_INTERVAL_S = 0.2
"""Time between two groups. Syncing a disk takes some milliseconds, so groups of this
age cost nothing that is felt; a power cut loses no more."""

MAX_GROUP = 4096
"""Lines in one group at most."""

MAX_PENDING_BYTES = 16 * 2**20
"""Bytes that wait for the disk at most; then `Journal.append` waits, too."""

_HEAD = struct.Struct("<QQI")
_ENTRY = struct.Struct("<QQII")
_FAILED = 1 << 63
_CHUNK_ENTRIES = 4096


@attrs.frozen
class Entry:
    """One finished line."""

    index: int
    """Number of the line in the input."""
    failed: bool
    offset: int
    """Position of its first byte in ``lines``."""
    length: int
    """Bytes without the newline."""


class Bits:
    """One bit for each line of the input."""

    def __init__(self, size: int) -> None:
        self._bits = bytearray(size // 8 + 1)
        self.count = 0
        """Bits that are set."""

    def __contains__(self, index: int) -> bool:
        return bool(self._bits[index >> 3] & (1 << (index & 7)))

    def add(self, index: int) -> None:
        """Set a bit that is not set."""
        self._bits[index >> 3] |= 1 << (index & 7)
        self.count += 1


def pack(index: int, offset: int, line: bytes, *, failed: bool) -> bytes:
    """Return the entry of a line."""
    number = index | _FAILED if failed else index
    head = _HEAD.pack(number, offset, len(line))
    return head + zlib.crc32(line, zlib.crc32(head)).to_bytes(4, "little")


def _as_entry(number: int, offset: int, length: int) -> Entry:
    return Entry(number & ~_FAILED, bool(number & _FAILED), offset, length)


class Journal:
    """The journal of one job, opened for more lines.

    Args:
        folder: Folder of the two files, which are created.
        num_lines: Lines of the input.

    Attributes:
        num_lines: Lines of the input.
        done: Lines that are finished.
        failed: Those of them that failed.

    Raises:
        BatchStorageError: The journal is damaged, or cannot be read or written.
    """

    def __init__(self, folder: Path, num_lines: int) -> None:
        self._folder = folder
        self.num_lines = num_lines
        self.done = Bits(num_lines)
        self.failed = Bits(num_lines)
        self._pending: deque[tuple[int, bytes, bool]] = deque()
        self._appended_bytes = self._committed_bytes = 0
        self._committed = threading.Condition()
        self._ending = threading.Event()
        self._error: Exception | None = None
        with storage_errors(folder):
            self._index = _append_to(folder / INDEX)
            self._lines = _append_to(folder / LINES)
            self._end = self._recover()
            sync_folder(folder)
        self._thread = threading.Thread(
            target=self._commit_often, name="unillm-journal", daemon=True
        )
        self._thread.start()

    # ------------------------------------------------------------------------- writing

    def append(self, index: int, line: bytes, *, failed: bool) -> None:
        """Take a finished line; it is on the disk within `COMMIT_INTERVAL_S`.

        Args:
            index: Number of the line in the input, which is not done yet.
            line: Its output, without a newline.
            failed: Whether it has an error instead of an answer.

        Raises:
            BatchStorageError: The disk is full or failed.
        """
        assert index not in self.done, "a line has two answers"
        self.done.add(index)
        if failed:
            self.failed.add(index)
        self._appended_bytes += len(line) + 1
        self._pending.append((index, line, failed))
        if self._appended_bytes - self._committed_bytes > MAX_PENDING_BYTES:
            with self._committed:
                self._committed.wait_for(
                    lambda: (
                        self._error is not None
                        or self._appended_bytes - self._committed_bytes
                        <= MAX_PENDING_BYTES // 2
                    )
                )
        self.check()

    def flush(self) -> None:
        """Wait until all that was appended is on the disk.

        Raises:
            BatchStorageError: The disk is full or failed.
        """
        with self._committed:
            self._committed.wait_for(
                lambda: (
                    self._error is not None
                    or self._committed_bytes == self._appended_bytes
                )
            )
        self.check()

    def check(self) -> None:
        """Raise `BatchStorageError` if the disk is full or failed.

        Another error that ended the writing is raised as it is.
        """
        if isinstance(self._error, OSError):
            raise storage_error(self._folder, self._error) from self._error
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Write and sync what is pending, and close the files.

        Raises:
            BatchStorageError: The disk is full or failed.
        """
        if not self._ending.is_set():
            self._ending.set()
            self._thread.join()
            os.close(self._lines)
            os.close(self._index)
        self.check()

    def _commit_often(self) -> None:
        try:
            ending = False
            while not ending:
                ending = self._ending.wait(COMMIT_INTERVAL_S)
                while self._pending:
                    self._commit()
        except Exception as error:  # noqa: BLE001 - lines must not be lost unseen
            self._error = error
        finally:
            with self._committed:
                self._committed.notify_all()

    def _commit(self) -> None:
        """Write and sync one group."""
        lines: list[bytes] = []
        entries, end = [], self._end
        for _ in range(min(len(self._pending), MAX_GROUP)):
            index, line, failed = self._pending.popleft()
            entries.append(pack(index, end, line, failed=failed))
            lines += (line, b"\n")
            end += len(line) + 1
        _write(self._lines, b"".join(lines))
        _sync(self._lines)
        _write(self._index, b"".join(entries))
        _sync(self._index)
        with self._committed:
            self._committed_bytes += end - self._end
            self._committed.notify_all()
        self._end = end

    # ------------------------------------------------------------------------- reading

    def _recover(self) -> int:
        """Check all entries, cut the end of an interrupted group; return the end."""
        size = os.fstat(self._index).st_size
        whole, end = 0, 0
        for entry in self._checked_entries():
            if entry is None:
                break
            whole += 1
            end = entry.offset + entry.length + 1
            self.done.add(entry.index)
            if entry.failed:
                self.failed.add(entry.index)
        if size // _ENTRY.size - whole > MAX_GROUP:
            raise BatchStorageError(
                f"The journal in {self._folder} is damaged: entry {whole} of "
                f"{size // _ENTRY.size}, at byte {whole * _ENTRY.size} of its file "
                f"{INDEX}, does not belong to a line at byte {end} of {LINES}. An "
                "interrupted job leaves no such thing; the disk may be failing. Begin "
                "the job anew with --restart."
            )
        os.ftruncate(self._index, whole * _ENTRY.size)
        os.ftruncate(self._lines, end)
        os.fsync(self._index)
        os.fsync(self._lines)
        return end

    def _checked_entries(self) -> Iterator[Entry | None]:
        """Yield the entries; `None` for the first wrong one, which is the last."""
        position = 0
        with (self._folder / LINES).open("rb", buffering=2**20) as lines:
            for number, offset, length, checksum in _raw_entries(self._folder / INDEX):
                entry = _as_entry(number, offset, length)
                if (
                    offset < position
                    or entry.index >= self.num_lines
                    or entry.index in self.done
                ):
                    yield None
                    return
                if offset != position:  # a line before it was dropped
                    lines.seek(offset)
                line = lines.read(length + 1)
                head = _HEAD.pack(number, offset, length)
                if (
                    len(line) != length + 1
                    or not line.endswith(b"\n")
                    or zlib.crc32(line[:-1], zlib.crc32(head)) != checksum
                ):
                    yield None
                    return
                position = offset + length + 1
                yield entry


def _sync(descriptor: int) -> None:
    # macOS has no `fdatasync`.
    getattr(os, "fdatasync", os.fsync)(descriptor)


def entries(folder: Path) -> Iterator[Entry]:
    """Yield the entries of a journal in the order in which its lines ended."""
    for number, offset, length, _ in _raw_entries(folder / INDEX):
        yield _as_entry(number, offset, length)


def drop_failed(folder: Path) -> int:
    """Take the failed lines out of a journal that is not open; return their number.

    Raises:
        BatchStorageError: The disk is full or failed.
    """
    dropped = 0
    new = folder / f"{INDEX}.new"
    with storage_errors(folder), new.open("wb") as stream:
        for number, offset, length, checksum in _raw_entries(folder / INDEX):
            if number & _FAILED:
                dropped += 1
            else:
                stream.write(_ENTRY.pack(number, offset, length, checksum))
        stream.flush()
        os.fsync(stream.fileno())
        new.replace(folder / INDEX)
        sync_folder(folder)
    return dropped


def _raw_entries(file: Path) -> Iterator[tuple[int, int, int, int]]:
    with file.open("rb") as stream:
        while chunk := stream.read(_ENTRY.size * _CHUNK_ENTRIES):
            yield from _ENTRY.iter_unpack(chunk[: len(chunk) // _ENTRY.size * 24])


def _append_to(file: Path) -> int:
    return os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def storage_error(path: Path, error: OSError) -> BatchStorageError:
    """Return the error of a job whose disk is full or failed."""
    return BatchStorageError(
        f"{path} cannot be written: {error.strerror or error}. What was finished "
        "before is kept. Make room, then run the same command again: it goes on from "
        "there."
    )


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Raise an error of the disk inside the block as `storage_error`."""
    try:
        yield
    except UnillmError:  # some are of this class, too
        raise
    except OSError as error:
        raise storage_error(path, error) from error
