# SPDX-License-Identifier: Apache-2.0

"""SHA-256 of files, remembered until a file changes.

Hashing runs at about 1.7 GB/s a core, so a model of 16 GB would cost every start ten
seconds. A remembered digest stands beside the size, mtime, ctime and inode of its file,
and counts while all of them are the same: the kernel changes ctime at each write, also
where a program sets mtime back. A disk that loses bits by itself changes none of them,
so prepared engines are hashed once in each boot of the machine.

A file that changed less than `SETTLED_S` before it was hashed could change again within
one tick of the file system's clock, so its digest is not remembered.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attrs

from ..phases import phase
from .records import from_json, read_sealed, to_json, write_sealed

log = logging.getLogger("unillm.artifacts")

SETTLED_S = 2.0
"""Tick of the coarsest clock of a file system in use, that of FAT."""

_CHUNK_BYTES = 2**20
_THREADS = 4
"""Threads that hash; a disk seldom feeds more."""


@attrs.frozen
class _State:
    """The numbers of a file that change with its content."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, file: Path) -> _State:
        found = file.stat()
        return cls(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)

    def is_settled(self) -> bool:
        last_change_ns = max(self.mtime_ns, self.ctime_ns)
        return last_change_ns < time.time_ns() - SETTLED_S * 1e9


@attrs.frozen(kw_only=True)
class _Known:
    """A digest, and the state of its file before it was hashed."""

    state: _State
    sha256: str
    boot: str | None = None
    """Boot of the machine in which it was hashed; `None` if unknown."""


@attrs.frozen(kw_only=True)
class _Record:
    """The known digests of a directory."""

    directory: str
    files: dict[str, _Known]


def digest_file(file: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal.

    Raises:
        OSError: The file cannot be read.
    """
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    with file.open("rb", buffering=0) as stream:
        while size := stream.readinto(buffer):
            digest.update(buffer[:size])
    return digest.hexdigest()


def boot_id() -> str | None:
    """Return the id of this boot of the machine; `None` where the kernel has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return None


class Digests:
    """Digests of files, remembered in a folder with one small file a directory.

    Args:
        memory: That folder. Created if it is missing; where it cannot be written, every
            call hashes.
    """

    def __init__(self, memory: Path) -> None:
        self._memory = memory

    def of(
        self, directory: Path, names: Iterable[str], *, this_boot_only: bool = False
    ) -> dict[str, str]:
        """Return the digests of files of a directory, by their paths in it.

        Args:
            directory: The directory.
            names: Paths of the files in it.
            this_boot_only: Ignore digests from before the machine started.

        Raises:
            OSError: A file is missing or cannot be read.
        """
        states = {name: _State.of(directory / name) for name in names}
        boot = boot_id()
        known = {
            name: each
            for name, each in self._recall(directory).items()
            if not this_boot_only or (boot is not None and each.boot == boot)
        }
        digests = {
            name: known[name].sha256
            for name, state in states.items()
            if name in known and known[name].state == state
        }
        new = [name for name in states if name not in digests]
        if not new:
            return digests
        num_bytes = sum(states[name].size for name in new)
        with (
            phase("hashing files", total_bytes=num_bytes),
            ThreadPoolExecutor(_THREADS) as threads,
        ):
            found = threads.map(digest_file, (directory / name for name in new))
            hashed = dict(zip(new, found, strict=True))
        if lasting := {
            name: _Known(state=states[name], sha256=digest, boot=boot)
            for name, digest in hashed.items()
            if states[name].is_settled() and states[name] == _State.of(directory / name)
        }:
            self._remember(directory, {**known, **lasting})
        return digests | hashed

    def move(self, old: Path, new: Path) -> None:
        """Keep the digests of a directory that was renamed."""
        if known := self._recall(old):
            self._remember(new, known)
        self.forget(old)

    def forget(self, directory: Path) -> None:
        """Forget the digests of a directory."""
        with contextlib.suppress(OSError):
            self._file(directory).unlink()

    def prune(self) -> None:
        """Delete the records of directories that are gone, and unfinished records."""
        for file in self._memory.glob("*.json"):
            try:
                gone = not Path(read_sealed(file)["directory"]).is_dir()
            except (ValueError, KeyError):
                gone = True
            if gone:
                file.unlink(missing_ok=True)
        # A process that is writing one loses nothing but a record.
        for unfinished in self._memory.glob(".*"):
            unfinished.unlink(missing_ok=True)

    def _file(self, directory: Path) -> Path:
        name = hashlib.sha256(os.fsencode(directory.resolve())).hexdigest()[:32]
        return self._memory / f"{name}.json"

    def _recall(self, directory: Path) -> dict[str, _Known]:
        try:
            return from_json(read_sealed(self._file(directory)), _Record).files
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            log.debug("The digests of %s are computed again: %s", directory, error)
            return {}

    def _remember(self, directory: Path, known: Mapping[str, _Known]) -> None:
        record = _Record(directory=str(directory.resolve()), files=dict(known))
        try:
            self._memory.mkdir(parents=True, exist_ok=True)
            write_sealed(self._file(directory), to_json(record))
        except OSError as error:
            log.debug("The digests of %s are not remembered: %s", directory, error)
