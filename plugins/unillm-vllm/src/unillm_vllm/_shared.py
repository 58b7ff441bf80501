# SPDX-License-Identifier: Apache-2.0

"""What engines in one process share: vLLM's global state.

There is one set of parallel groups and one context of the running forward pass in a
process. So engines of ours take turns, and what ends the groups waits until the last
engine of the process is closed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

import attrs


@attrs.define
class Alone:
    """An engine that shares nothing, because it has a process of its own."""

    lock: AbstractContextManager[object]

    def leave(self, end: Callable[[], None] | None = None) -> None:
        """Run *end*, which ends the engine."""
        if end is not None:
            end()


@attrs.define
class _Guest(Alone):
    """An engine in this process."""

    house: InProcess

    def leave(self, end: Callable[[], None] | None = None) -> None:
        """Run *end* when no other engine needs what it takes down."""
        self.house.leave(end)


class InProcess:
    """The engines of this process."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._living = 0
        self._waiting: list[Callable[[], None]] = []

    def enter(self) -> Alone:
        """Count one engine more."""
        with self._lock:
            self._living += 1
        return _Guest(lock=self._lock, house=self)

    def leave(self, end: Callable[[], None] | None) -> None:
        """Count one less, and end all that have left if it was the last."""
        with self._lock:
            self._living -= 1
            if end is not None:
                self._waiting.append(end)
            if self._living == 0:
                waiting, self._waiting = self._waiting, []
                for each in waiting:
                    each()


IN_PROCESS = InProcess()
