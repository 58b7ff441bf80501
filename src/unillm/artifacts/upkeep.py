# SPDX-License-Identifier: Apache-2.0

"""Upkeep of prepared engines on command: verify all bytes, delete some entries.

Nothing is deleted by itself, and never an engine that a living process builds or uses.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator

import attrs

from .folder import ArtifactFolder, Entry
from .manifest import FILES, DamagedError, ForeignError


@attrs.frozen(kw_only=True)
class Check:
    """The result of `verify` for one entry."""

    key: str
    problem: str = ""
    """Empty if every byte is as it was built."""
    is_damaged: bool = False
    """Whether the entry was set aside. An entry of another version of unillm has a
    problem but is not damaged: this version cannot check it."""


def verify(folder: ArtifactFolder, keys: Collection[str] = ()) -> Iterator[Check]:
    """Hash all files of entries without the memory, and set damaged entries aside.

    Skips an entry that a living process replaces.

    Args:
        folder: The folder of the entries.
        keys: Keys of the entries; none for all.

    Raises:
        OSError: The folder cannot be read, or not be written, which locks need.
    """
    for entry in folder.entries():
        if keys and entry.key not in keys:
            continue
        with folder.build_lock(entry.key).if_free() as alone:
            if alone and entry.path.exists():
                yield _check(folder, entry.key)


def _check(folder: ArtifactFolder, key: str) -> Check:
    folder.digests.forget(folder.path(key) / FILES)
    try:
        folder.check(key)
    except ForeignError as error:
        return Check(key=key, problem=str(error))
    except DamagedError as damage:
        folder.set_aside(key, str(damage))
        return Check(key=key, problem=str(damage), is_damaged=True)
    return Check(key=key)


@attrs.frozen(kw_only=True)
class Removal:
    """One folder that `prune` deletes."""

    what: str
    """``"engine"``, ``"damaged engine"`` or ``"unfinished build"``."""
    key: str
    total_bytes: int


@attrs.frozen(kw_only=True)
class PruneReport:
    """The result of `prune`."""

    removed: tuple[Removal, ...]
    in_use: tuple[str, ...]
    """Keys of engines that the policy chose and a living process uses."""

    @property
    def total_bytes(self) -> int:
        """Size of the removed folders."""
        return sum(removal.total_bytes for removal in self.removed)


@attrs.frozen(kw_only=True)
class PrunePolicy:
    """Choice of the engines that `prune` deletes; by default none."""

    keys: Collection[str] = ()
    """Engines of these keys."""
    unused_for_s: float | None = None
    """Engines whose last use is longer ago."""
    max_bytes: int | None = None
    """The least recently used engines, until the rest takes no more than this."""
    everything: bool = False
    """All engines."""

    def chosen(self, entries: Collection[Entry]) -> list[Entry]:
        """Return the entries to delete, the least recently used first."""
        now = time.time()
        sizes = {entry.key: entry.total_bytes() for entry in entries}
        excess = 0 if self.max_bytes is None else sum(sizes.values()) - self.max_bytes
        chosen = []
        for entry in sorted(entries, key=last_use):
            unused_s = now - last_use(entry)
            if (
                self.everything
                or entry.key in self.keys
                or (self.unused_for_s is not None and unused_s > self.unused_for_s)
                or excess > 0
            ):
                chosen.append(entry)
                excess -= sizes[entry.key]
        return chosen


def last_use(entry: Entry) -> float:
    """Return the time of an entry's last use or of its build, since the epoch."""
    try:
        return entry.path.stat().st_mtime
    except OSError:  # a process deleted it meanwhile
        return 0.0


def is_in_use(folder: ArtifactFolder, key: str) -> bool:
    """Whether a living process uses an entry; `False` where locks cannot be read."""
    lock = folder.use_lock(key)
    if not lock.path.exists():
        return False
    try:
        with lock.if_free() as alone:
            return not alone
    except OSError:
        return False


def prune(
    folder: ArtifactFolder, policy: PrunePolicy | None = None, *, dry_run: bool = False
) -> PruneReport:
    """Delete the engines that a policy chooses, damaged ones, and rests of dead builds.

    Args:
        folder: The folder of the entries.
        policy: Choice of the engines; `None` for none.
        dry_run: Only report.

    Raises:
        OSError: The folder cannot be read or written.
    """
    removed: list[Removal] = []
    in_use: list[str] = []

    def remove(what: str, entry: Entry) -> None:
        size = entry.total_bytes()
        removed.append(Removal(what=what, key=entry.key, total_bytes=size))
        if not dry_run:
            folder.delete(entry.path)

    for path, key in folder.unfinished().items():
        with folder.build_lock(key).if_free() as dead:
            if dead:
                remove("unfinished build", Entry(key=key, path=path, manifest=None))
    for entry in folder.set_aside_entries():
        remove("damaged engine", entry)
    for entry in (policy or PrunePolicy()).chosen(folder.entries()):
        build, use = folder.build_lock(entry.key), folder.use_lock(entry.key)
        with build.if_free() as idle, use.if_free() as unused:
            if idle and unused:
                remove("engine", entry)
            else:
                in_use.append(entry.key)
    if not dry_run:
        folder.empty_trash()
        folder.digests.prune()
        _remove_locks(folder)
    return PruneReport(removed=tuple(removed), in_use=tuple(in_use))


def _remove_locks(folder: ArtifactFolder) -> None:
    """Delete the lock files of keys without an entry and a build."""
    for key, lock in folder.locks():
        with lock.if_free() as free:
            if free and not folder.path(key).exists() and not folder.unfinished(key):
                lock.remove()
