# SPDX-License-Identifier: Apache-2.0

"""`JobFolder`: the folder beside an output, with the record of the job that makes it.

The record names everything that the output depends on, so another job on the same
output is noticed. It stays when the job is finished; the journal does not, unless lines
failed, which ``--retry-failed`` repeats.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from ..artifacts.lock import FileLock, Owner
from ..artifacts.records import (
    from_json,
    read_sealed,
    sync_folder,
    to_json,
    write_sealed,
)
from ..errors import BatchMismatchError, BatchRunningError, BatchStorageError
from .journal import storage_error, storage_errors

FORMAT = 1
"""Version of the folder's files."""

SUFFIX = ".job"
"""The folder's name is that of the output with this suffix."""

STDIN_COPY = "stdin"
"""Copy of standard input, which a job reads more than once."""

_RECORD = "job.json"
_LOCK = "lock"


@attrs.frozen(kw_only=True)
class JobRecord:
    """The values that a job depends on, and its progress."""

    depends: Mapping[str, Any]
    """JSON values by name."""
    created: int
    """Seconds since the epoch."""
    num_lines: int
    format: int = FORMAT
    output_bytes: int | None = None
    """Size of the output; `None` until it is about to get its name."""
    moved_from: str | None = None
    """File of the folder that becomes the output."""
    num_failed: int = 0
    """Failed lines of a finished job."""
    finished: bool = False

    @property
    def key(self) -> bytes:
        """Digest of what the job depends on."""
        text = json.dumps(self.depends, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=32).digest()

    def differences(self, depends: Mapping[str, Any]) -> list[str]:
        """Return what another job depends on otherwise, in words."""
        return list(_differences("", self.depends, depends))


def _differences(name: str, old: Any, new: Any) -> Iterator[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            inner = f"{name}: {key}" if name else key
            yield from _differences(inner, old.get(key), new.get(key))
    elif old != new:
        yield f"{name}: {_shown(old)} → {_shown(new)}"


def _shown(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


class JobFolder:
    """The folder of one job.

    Args:
        output: File that the job makes.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.failed_lines = _failed_lines(output)
        """File for the lines of the input that failed: ``x.failed.jsonl``."""
        self.path = output.with_name(output.name + SUFFIX)
        self._lock = FileLock(self.path / _LOCK)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the job for a ``with`` block.

        Raises:
            BatchRunningError: Another process has it.
            BatchStorageError: The folder cannot be made.
        """
        try:
            free = self._lock.try_acquire()
        except OSError as error:
            raise storage_error(self.path, error) from error
        if not free:
            owner = self._lock.owner() or "another process"
            raise BatchRunningError(
                f"{owner} works at {self.output} already. Wait for it, or choose "
                "another output."
            )
        try:
            self._lock.sign(Owner.this_process())
            yield
        finally:
            self._release()

    def _release(self) -> None:
        """Release the lock; a job that left nothing leaves no folder either."""
        with contextlib.suppress(OSError):
            if not any(each.name != _LOCK for each in self.path.iterdir()):
                self._lock.remove()
                self.path.rmdir()
        self._lock.release()

    def owner(self) -> Owner | None:
        """Return the process that works at the job now; `None` for none."""
        if not self._lock.path.exists():
            return None
        with self._lock.if_free() as free:
            return None if free else self._lock.owner()

    def read(self) -> JobRecord | None:
        """Return the record; `None` if there is none.

        Raises:
            BatchStorageError: It is damaged.
        """
        try:
            record = from_json(read_sealed(self.path / _RECORD), JobRecord)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise BatchStorageError(
                f"{self.path / _RECORD} is damaged: {error}. Begin the job anew with "
                "--restart."
            ) from error
        if record.format != FORMAT:
            raise BatchMismatchError(
                f"{self.path} is of another version of unillm. Finish the job with "
                "that version, or begin it anew with --restart.",
                differences=["format"],
            )
        return record

    def write(self, record: JobRecord) -> None:
        """Write the record, and sync it.

        Raises:
            BatchStorageError: The disk is full or failed.
        """
        try:
            write_sealed(self.path / _RECORD, to_json(record))
        except OSError as error:
            raise storage_error(self.path, error) from error

    def begin(
        self, depends: Mapping[str, Any], num_lines: int, *, restart: bool
    ) -> JobRecord:
        """Return the record of this job: the one that is there, or a new one.

        Raises:
            BatchMismatchError: The output belongs to another job, or to none.
            BatchStorageError: The disk is full or failed, or the record is damaged.
        """
        depends = json.loads(json.dumps(depends))  # as a record reads it
        if restart:
            self.clear(keep_record=False, keep=(STDIN_COPY,))
        elif (record := self.read()) is not None:
            if changed := record.differences(depends):
                shown = "\n".join(f"  {each}" for each in changed[:20])
                raise BatchMismatchError(
                    f"{self.output} belongs to a job that differs from this one:\n"
                    f"{shown}\nGive what it had, choose another output, or begin anew "
                    "with --restart, which deletes what it has finished.",
                    differences=changed,
                )
            if not record.finished or self.has_output(record):
                return record
            if self.output.exists():
                raise _foreign(self.output, "has another size than this job gave it")
            # The output was taken away.
            self.clear(keep_record=False, keep=(STDIN_COPY,))
        else:
            for file in (self.output, self.failed_lines):
                if file.exists():
                    raise _foreign(file, "exists and belongs to no job")
        record = JobRecord(
            depends=depends, created=int(time.time()), num_lines=num_lines
        )
        self.write(record)
        with storage_errors(self.path):  # the folder is an entry of its parent
            sync_folder(self.path.parent)
        return record

    def has_output(self, record: JobRecord) -> bool:
        """Whether the output has its name, though the record may not say so yet."""
        if record.moved_from is None or (self.path / record.moved_from).exists():
            return False
        try:
            return self.output.stat().st_size == record.output_bytes
        except OSError:
            return False

    def clear(self, *, keep_record: bool, keep: Collection[str] = ()) -> None:
        """Delete the files of the folder but the lock.

        Args:
            keep_record: Whether the record stays, too.
            keep: Names of further files to keep.

        Raises:
            BatchStorageError: One cannot be deleted.
        """
        kept = {_LOCK, *keep, *((_RECORD,) if keep_record else ())}
        try:
            if not keep_record:  # first, so that no record stands for half a journal
                (self.path / _RECORD).unlink(missing_ok=True)
            for file in self.path.iterdir():
                if file.name not in kept:
                    file.unlink()
        except OSError as error:
            raise storage_error(self.path, error) from error


def _failed_lines(output: Path) -> Path:
    name, dot, suffixes = output.name.partition(".")
    return output.with_name(f"{name}.failed{dot}{suffixes}")


def _foreign(file: Path, what: str) -> BatchMismatchError:
    return BatchMismatchError(
        f"{file} {what}. Choose another output, or replace it with --restart.",
        differences=[],
    )
