# SPDX-License-Identifier: Apache-2.0

"""`Owner`: the process that made a generator, because a forked child has no engine.

A fork copies the memory of a process but only one of its threads: in the child, no
driver answers, and a lock may stay held by a thread that is not there. Every call asks
the owner before it takes a lock.
"""

from __future__ import annotations

import os

from ..errors import GeneratorForkedError


class Owner:
    """The process that creates the object."""

    def __init__(self) -> None:
        self._pid = os.getpid()

    def is_here(self) -> bool:
        """Whether the caller runs in this process, and not in a forked child."""
        return os.getpid() == self._pid

    def check(self) -> None:
        """Raise `GeneratorForkedError` in a forked child."""
        if not self.is_here():
            raise GeneratorForkedError(
                f"This generator belongs to process {self._pid}, and process "
                f"{os.getpid()} was forked from it: the engine and its thread do not "
                "exist here. Create the Generator in the child, or start the child "
                'with "spawn" or "forkserver" instead of "fork".',
                owner_pid=self._pid,
            )
