# SPDX-License-Identifier: Apache-2.0

"""A lock between processes that dies with its owner.

The lock is `flock` on an open file, which the kernel lets go when the process ends, by
whatever signal: there is no such thing as a stale one. A file's text tells who has it;
nobody believes that text unless the lock is really held.

What holds:

- one owner at a time, or any number that share; threads count like processes;
- a child that was forked while the lock was held does not hold it;
- a lock file may be deleted at any time: who waits for the old one takes the new one.

On NFS the kernel turns `flock` into a lock of the server, unless the mount says
``nolock`` or ``local_lock``; there it holds among the processes of one machine only.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import attrs

POLL_S = 0.1
"""How often a waiter tries again: it may be interrupted meanwhile, and tell news."""

_held: weakref.WeakSet[FileLock] = weakref.WeakSet()
"""Of this process, for the children that it forks."""


@attrs.frozen(kw_only=True)
class Owner:
    """Who holds a lock, by what it wrote when it got it."""

    pid: int
    host: str
    since: float
    """Seconds since the epoch."""
    failure: str | None = None
    """What its work ended with if it failed, for those who waited for it."""

    @classmethod
    def this_process(cls) -> Owner:
        """Return this process, from now on."""
        return cls(pid=os.getpid(), host=socket.gethostname(), since=time.time())

    def is_same(self, other: Owner) -> bool:
        """Whether both are one process that held the lock once."""
        return attrs.evolve(self, failure=None) == attrs.evolve(other, failure=None)

    def __str__(self) -> str:
        here = self.host == socket.gethostname()
        return f"process {self.pid}{'' if here else f' on {self.host}'}"


class FileLock:
    """A lock on a file, which is made if it does not exist.

    Args:
        path: The lock file. Its folder exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def try_acquire(self, *, shared: bool = False) -> bool:
        """Take the lock if it is free; say whether it is taken now.

        Raises:
            OSError: The file cannot be made or locked here.
        """
        assert self._descriptor is None, "the lock is held already"
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        while True:
            descriptor = os.open(
                self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666
            )
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
                if self._is_current(descriptor):
                    break
            except BlockingIOError:
                os.close(descriptor)
                return False
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)
        self._descriptor = descriptor
        _held.add(self)
        return True

    def acquire(
        self,
        *,
        shared: bool = False,
        on_wait: Callable[[Owner | None], None] | None = None,
    ) -> None:
        """Take the lock, and wait for it as long as another one has it.

        Args:
            shared: Take it together with others that share it.
            on_wait: Called at every try that failed, with the owner if it is known.
                What it raises ends the waiting.
        """
        while not self.try_acquire(shared=shared):
            if on_wait is not None:
                on_wait(self.owner())
            time.sleep(POLL_S)

    def owner(self) -> Owner | None:
        """Return who wrote itself into the file last; `None` if it cannot be read."""
        try:
            return Owner(**json.loads(self.path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def sign(self, owner: Owner) -> None:
        """Write the owner into the file of the held lock, if the disk takes it."""
        assert self._descriptor is not None, "only the holder signs"
        text = json.dumps(attrs.asdict(owner)).encode()
        # Readers may see it half written, and then know of no owner.
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, text, 0)

    def remove(self) -> None:
        """Delete the file of a lock that is held alone, and let go of it."""
        assert self._descriptor is not None, "only the holder removes"
        with contextlib.suppress(OSError):
            self.path.unlink()
        self.release()

    def release(self) -> None:
        """Let go; a second time does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
            _held.discard(self)

    def _is_current(self, descriptor: int) -> bool:
        """Whether the locked file is still the one that has the name."""
        try:
            there = self.path.stat()
        except FileNotFoundError:
            return False
        ours = os.fstat(descriptor)
        return (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)


def _forget_in_child() -> None:
    # The parent's descriptors keep the lock; the child's would outlive the parent.
    for lock in list(_held):
        lock.release()


os.register_at_fork(after_in_child=_forget_in_child)
