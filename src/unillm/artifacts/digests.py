# SPDX-License-Identifier: Apache-2.0

"""SHA-256 of files, computed once for as long as they stay as they are.

Hashing runs at about 1.7 GB/s a core, so a model of 16 GB would cost every start ten
seconds. What was computed is remembered with the size, the times of the last change
(mtime and ctime) and the inode of the file, and believed while all of them are the
same. That trusts the kernel to change ctime at each write, which holds for local file
systems whoever writes, and however mtime is set back afterwards. It does not see a disk
that loses bits by itself: who wants that too asks again after each boot.

A file whose last change is less than `SETTLED_S` seconds old when it has been hashed is
not remembered: it could change again within the same tick of its file system's clock.
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
from typing import Any

import attrs

from .sealed import BrokenSealError, read_sealed, write_sealed

log = logging.getLogger("unillm.artifacts")

SETTLED_S = 2.0
"""The coarsest clock of a file system that is still in use: FAT's."""

_HALF_S = 3600
_CHUNK_BYTES = 2**20
_THREADS = 4
"""At most; a disk seldom feeds more."""


@attrs.frozen
class _Print:
    """What tells that a file is the same, without reading it."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, file: Path) -> _Print:
        found = file.stat()
        return cls(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)

    def is_settled(self) -> bool:
        last_change_ns = max(self.mtime_ns, self.ctime_ns)
        return last_change_ns < time.time_ns() - SETTLED_S * 1e9


@attrs.frozen(kw_only=True)
class _Known:
    """A digest, what the file looked like, and in which run of the machine."""

    state: _Print
    boot: str | None
    sha256: str

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> _Known:
        return cls(**{**content, "state": _Print(**content["state"])})


def digest_file(file: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal.

    Raises:
        OSError: It cannot be read.
    """
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    with file.open("rb", buffering=0) as stream:
        while size := stream.readinto(buffer):
            digest.update(buffer[:size])
    return digest.hexdigest()


def boot_id() -> str | None:
    """Return what names this run of the machine; `None` where nothing does."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return None


class Digests:
    """Digests of files, remembered in a folder: one small file for each directory.

    Args:
        memory: Folder of what is remembered. Made if it is missing; if it cannot be
            written, everything is hashed each time.
    """

    def __init__(self, memory: Path) -> None:
        self._memory = memory

    def of(
        self, directory: Path, names: Iterable[str], *, this_boot_only: bool = False
    ) -> dict[str, str]:
        """Return the digests of some files of a directory.

        Args:
            directory: Where they are.
            names: Their paths in it.
            this_boot_only: Believe only what was computed since the machine started.

        Raises:
            OSError: A file is missing or cannot be read.
        """
        states = {name: _Print.of(directory / name) for name in names}
        known = self._recall(directory)
        boot = boot_id()
        kept = {
            name: known[name]
            for name, state in states.items()
            if name in known
            and known[name].state == state
            and not (this_boot_only and (boot is None or known[name].boot != boot))
        }
        fresh = {
            name: _Known(state=states[name], boot=boot, sha256=digest)
            for name, digest in _hash(directory, states.keys() - kept.keys()).items()
        }
        if lasting := {
            name: entry
            for name, entry in fresh.items()
            if entry.state.is_settled() and entry.state == _Print.of(directory / name)
        }:
            self._remember(directory, {**known, **lasting})
        return {name: (kept.get(name) or fresh[name]).sha256 for name in states}

    def move(self, old: Path, new: Path) -> None:
        """Remember of *new* what is remembered of *old*, which was renamed to it."""
        if known := self._recall(old):
            self._remember(new, known)
        self.forget(old)

    def forget(self, directory: Path) -> None:
        """Drop what is remembered of a directory."""
        with contextlib.suppress(OSError):
            self._record(directory).unlink()

    def prune(self) -> None:
        """Drop what is remembered of directories that are gone, and half records."""
        for half in self._memory.glob(".*"):
            # Of a process that was killed; one that writes it now needs milliseconds.
            if half.stat().st_mtime < time.time() - _HALF_S:
                half.unlink(missing_ok=True)
        for record in self._memory.glob("*.json"):
            try:
                gone = not Path(read_sealed(record)["directory"]).is_dir()
            except (BrokenSealError, KeyError):
                gone = True
            if gone:
                record.unlink(missing_ok=True)

    def _record(self, directory: Path) -> Path:
        name = hashlib.sha256(os.fsencode(directory.resolve())).hexdigest()[:32]
        return self._memory / f"{name}.json"

    def _recall(self, directory: Path) -> dict[str, _Known]:
        try:
            files = read_sealed(self._record(directory))["files"]
            return {name: _Known.from_json(entry) for name, entry in files.items()}
        except FileNotFoundError:
            return {}
        except (OSError, BrokenSealError, LookupError, TypeError) as error:
            log.debug("Digests of %s are computed again: %s", directory, error)
            return {}

    def _remember(self, directory: Path, known: Mapping[str, _Known]) -> None:
        content = {
            "directory": str(directory.resolve()),
            "files": {name: attrs.asdict(entry) for name, entry in known.items()},
        }
        try:
            self._memory.mkdir(parents=True, exist_ok=True)
            write_sealed(self._record(directory), content)
        except OSError as error:
            log.debug("Digests of %s are not remembered: %s", directory, error)


def _hash(directory: Path, names: Iterable[str]) -> dict[str, str]:
    names = list(names)
    paths = [directory / name for name in names]
    if len(paths) < 2:
        return dict(zip(names, map(digest_file, paths), strict=True))
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as threads:
        return dict(zip(names, threads.map(digest_file, paths), strict=True))
