# SPDX-License-Identifier: Apache-2.0

"""vLLM's global state, which engines in one process share.

A process has one set of parallel groups and one context of the running forward pass. So
engines take turns, and the shutdown that ends the groups waits until the last engine of
the process is closed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

import attrs


@attrs.define
class Alone:
    """The share of an engine with its own processes: nothing."""

    lock: AbstractContextManager[object]

    def leave(self, end: Callable[[], None] | None = None) -> None:
        """Run *end*, the shutdown of the engine."""
        if end is not None:
            end()


@attrs.define
class _Guest(Alone):
    """The share of an engine in this process."""

    shared: InProcess

    def leave(self, end: Callable[[], None] | None = None) -> None:
        """Run *end* when the last engine of the process leaves."""
        self.shared.leave(end)


class InProcess:
    """The engines of this process."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._living = 0
        self._waiting: list[Callable[[], None]] = []

    def enter(self) -> Alone:
        """Add an engine."""
        with self._lock:
            self._living += 1
        return _Guest(lock=self._lock, shared=self)

    def leave(self, end: Callable[[], None] | None) -> None:
        """Remove an engine; the last one runs the shutdowns of all."""
        with self._lock:
            self._living -= 1
            if end is not None:
                self._waiting.append(end)
            if self._living == 0:
                waiting, self._waiting = self._waiting, []
                for each in waiting:
                    each()


IN_PROCESS = InProcess()
