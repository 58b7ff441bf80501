# SPDX-License-Identifier: Apache-2.0

"""File locks between processes, exclusive or shared.

The lock is `flock` on an open file. The kernel releases it when the process ends, by
any signal, so a lock is never stale. The text of the file names the owner and means
nothing while the lock is free.

- Threads exclude each other like processes.
- A child that a process forks does not hold the locks of its parent.
- A lock file may be deleted at any time: a waiting process then locks the new file.

On NFS the kernel turns `flock` into a lock of the server. With the mount options
``nolock`` and ``local_lock`` it covers the processes of one machine only.

The library filelock covers less: its shared lock is a SQLite database. After the file
is deleted, a writer locks the new one beside a reader of the old one.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs

from .records import from_json, to_json

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

POLL_S = 0.1
"""Time between two tries of a waiting process."""

_held: weakref.WeakSet[FileLock] = weakref.WeakSet()
"""Locks of this process, which its forked children have to release."""


@attrs.frozen(kw_only=True)
class Owner:
    """The process that holds a lock; equal whatever its `failure`."""

    pid: int
    host: str
    since: float
    """Seconds since the epoch."""
    failure: str | None = attrs.field(default=None, eq=False)
    """Error that ended its work, for the processes that waited for it."""

    @classmethod
    def this_process(cls) -> Owner:
        """Return this process, as the owner from now on."""
        return cls(pid=os.getpid(), host=socket.gethostname(), since=time.time())

    def __str__(self) -> str:
        here = self.host == socket.gethostname()
        return f"process {self.pid}{'' if here else f' on {self.host}'}"


class FileLock:
    """A lock on a file, which is created where it does not exist.

    Args:
        path: The lock file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._descriptor is not None

    def try_acquire(self, *, shared: bool = False) -> bool:
        """Acquire the lock if it is free, and return whether it was.

        Raises:
            OSError: The file cannot be created or locked, or the system has no `flock`.
        """
        if fcntl is None:
            raise OSError(
                errno.ENOSYS,
                "this system has no flock, which prepared engines and batch jobs need",
            )
        assert not self.held, "the lock is held already"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        while self._descriptor is None:
            with contextlib.ExitStack() as unless_acquired:
                descriptor = os.open(self.path, flags, 0o666)
                unless_acquired.callback(os.close, descriptor)
                try:
                    fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
                except BlockingIOError:
                    return False
                if self._has_name(descriptor):
                    unless_acquired.pop_all()
                    self._descriptor = descriptor
        _held.add(self)
        return True

    def acquire(
        self,
        *,
        shared: bool = False,
        on_wait: Callable[[Owner | None], None] | None = None,
    ) -> None:
        """Acquire the lock; wait while another owner holds it.

        Args:
            shared: Share the lock with other owners that share it.
            on_wait: Called after each failed try, with the owner if the file names one.
                An exception from it ends the wait.
        """
        while not self.try_acquire(shared=shared):
            if on_wait is not None:
                on_wait(self.owner())
            time.sleep(POLL_S)

    @contextlib.contextmanager
    def if_free(self) -> Iterator[bool]:
        """Hold the lock for a `with` block if it is free, and yield whether it was."""
        free = self.try_acquire()
        try:
            yield free
        finally:
            self.release()

    def owner(self) -> Owner | None:
        """Return the last owner that signed the file; `None` if it cannot be read."""
        try:
            return from_json(json.loads(self.path.read_text(encoding="utf-8")), Owner)
        except (OSError, ValueError):
            return None

    def sign(self, owner: Owner) -> None:
        """Write the owner into the file of the held lock, if the disk has room."""
        assert self._descriptor is not None, "only the holder signs"
        text = json.dumps(to_json(owner)).encode()
        # A reader that sees half of it gets no owner.
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, text, 0)

    def remove(self) -> None:
        """Delete the file of a lock that is held exclusively, and release it."""
        assert self._descriptor is not None, "only the holder removes"
        with contextlib.suppress(OSError):
            self.path.unlink()
        self.release()

    def release(self) -> None:
        """Release the lock; the second call does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
            _held.discard(self)

    def _has_name(self, descriptor: int) -> bool:
        """Whether the locked file still has the name, or was deleted meanwhile."""
        try:
            return os.path.samestat(self.path.stat(), os.fstat(descriptor))
        except FileNotFoundError:
            return False


def _release_in_child() -> None:
    # The parent's descriptors keep the lock; the child's would outlive the parent.
    for lock in list(_held):
        lock.release()


if hasattr(os, "register_at_fork"):  # else no process forks
    os.register_at_fork(after_in_child=_release_in_child)
