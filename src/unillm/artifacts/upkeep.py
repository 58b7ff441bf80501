# SPDX-License-Identifier: Apache-2.0

"""What is done with prepared engines on command: verify all bytes, delete some.

Nothing is deleted by itself. What a living process builds or uses is left alone.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterator
from pathlib import Path

import attrs

from .folder import ArtifactFolder, Entry
from .lock import FileLock
from .manifest import FILES, DamagedError, ForeignError


@attrs.frozen(kw_only=True)
class Verdict:
    """What `verify` found of one entry."""

    key: str
    problem: str = ""
    """Empty if every byte is what was built."""
    is_damaged: bool = False
    """Whether it was set aside. An entry of another version of unillm is not: this
    one cannot judge it."""


def verify(folder: ArtifactFolder, keys: Collection[str] = ()) -> Iterator[Verdict]:
    """Read all bytes of entries, whatever is known of them, and set damaged ones aside.

    Args:
        folder: Whose entries.
        keys: Which; none for all.

    Raises:
        OSError: The folder cannot be read, or not be written: what is verified is
            locked meanwhile, and a damaged one is moved.
    """
    for entry in folder.entries():
        if keys and entry.key not in keys:
            continue
        with _locked(folder.build_lock(entry.key)) as alone:
            # Whoever has the lock replaces it just now.
            if alone and entry.path.exists():
                yield _verdict(folder, entry.key)


def _verdict(folder: ArtifactFolder, key: str) -> Verdict:
    folder.digests.forget(folder.path(key) / FILES)
    try:
        folder.check(key)
    except ForeignError as error:
        return Verdict(key=key, problem=str(error))
    except DamagedError as damage:
        folder.set_aside(key, str(damage))
        return Verdict(key=key, problem=str(damage), is_damaged=True)
    return Verdict(key=key)


@attrs.frozen(kw_only=True)
class Removal:
    """One thing that `prune` deleted, or would."""

    what: str
    """``"engine"``, ``"damaged engine"`` or ``"unfinished build"``."""
    key: str
    total_bytes: int


@attrs.frozen(kw_only=True)
class PruneReport:
    """What `prune` did."""

    removed: tuple[Removal, ...]
    in_use: tuple[str, ...]
    """Keys of engines that it would have deleted and that are in use."""

    @property
    def total_bytes(self) -> int:
        """What the removed ones took on the disk."""
        return sum(removal.total_bytes for removal in self.removed)


@attrs.frozen(kw_only=True)
class PrunePolicy:
    """Which engines go. By default none."""

    keys: Collection[str] = ()
    """These."""
    unused_for_s: float | None = None
    """Those that were not taken into use for so long."""
    max_bytes: int | None = None
    """Those that were unused for longest, until the rest takes no more than this."""
    everything: bool = False
    """All."""

    def chosen(self, entries: Collection[Entry]) -> list[Entry]:
        """Return the entries that go, those that were unused for longest first."""
        now = time.time()
        oldest_first = sorted(entries, key=last_use)
        excess = (
            0
            if self.max_bytes is None
            else sum(entry.total_bytes() for entry in entries) - self.max_bytes
        )
        chosen = []
        for entry in oldest_first:
            unused_s = now - last_use(entry)
            if (
                self.everything
                or entry.key in self.keys
                or (self.unused_for_s is not None and unused_s > self.unused_for_s)
                or excess > 0
            ):
                chosen.append(entry)
                excess -= entry.total_bytes()
        return chosen


def last_use(entry: Entry) -> float:
    """Return when an entry was last taken into use, or made, since the epoch."""
    try:
        return entry.path.stat().st_mtime
    except OSError:  # deleted meanwhile
        return 0.0


def is_in_use(folder: ArtifactFolder, key: str) -> bool:
    """Whether a living process has an entry open; `False` where nobody can know."""
    lock = folder.use_lock(key)
    if not lock.path.exists():
        return False
    try:
        with _locked(lock) as alone:
            return not alone
    except OSError:
        return False


def prune(
    folder: ArtifactFolder, policy: PrunePolicy | None = None, *, dry_run: bool = False
) -> PruneReport:
    """Delete what a policy says, what was set aside, and what killed builds left.

    Args:
        folder: Of what.
        policy: Which engines go; `None` for none.
        dry_run: Only say what would be deleted.

    Raises:
        OSError: The folder cannot be read or written.
    """
    removed: list[Removal] = []
    in_use: list[str] = []
    for path, key in folder.unfinished().items():
        with _locked(folder.build_lock(key)) as dead:
            if dead:
                removed.append(_removal("unfinished build", key, path))
                _delete(folder, path, dry_run)
    for entry in folder.set_aside_entries():
        removed.append(_removal("damaged engine", entry.key, entry.path))
        _delete(folder, entry.path, dry_run)
    for entry in (policy or PrunePolicy()).chosen(folder.entries()):
        build, use = folder.build_lock(entry.key), folder.use_lock(entry.key)
        with _locked(build) as idle, _locked(use) as unused:
            if not (idle and unused):
                in_use.append(entry.key)
                continue
            removed.append(_removal("engine", entry.key, entry.path))
            if not dry_run:
                folder.delete(entry.path)
    if not dry_run:
        folder.empty_trash()
        folder.digests.prune()
        _remove_locks(folder)
    return PruneReport(removed=tuple(removed), in_use=tuple(in_use))


def _remove_locks(folder: ArtifactFolder) -> None:
    """Delete the lock files of keys that have neither an entry nor a build."""
    for key, lock in folder.locks():
        with _locked(lock) as free:
            if free and not folder.path(key).exists() and not folder.unfinished(key):
                lock.remove()


def _removal(what: str, key: str, path: Path) -> Removal:
    size = Entry(key=key, path=path, manifest=None).total_bytes()
    return Removal(what=what, key=key, total_bytes=size)


def _delete(folder: ArtifactFolder, path: Path, dry_run: bool) -> None:
    if not dry_run:
        folder.delete(path)


@contextlib.contextmanager
def _locked(lock: FileLock) -> Iterator[bool]:
    """Hold a lock if it is free, and say whether it was."""
    lock.path.parent.mkdir(parents=True, exist_ok=True)
    free = lock.try_acquire()
    try:
        yield free
    finally:
        lock.release()
