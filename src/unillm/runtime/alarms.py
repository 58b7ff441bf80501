# SPDX-License-Identifier: Apache-2.0

"""`Alarm`: an event of an event loop that the driver's thread sets.

A call into a loop from another thread costs a system call and a callback. All alarms of
one loop share a call, so a step wakes a loop once, however many streams it reads.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque


class Alarm:
    """An event of the running loop. Any thread calls `ring`.

    Args:
        for_end: Only the end of a request rings it, not each change.

    Attributes:
        event: Set by the loop soon after a ring; waiting and clearing belong to it.
    """

    __slots__ = ("_due", "_shared", "event", "for_end")

    def __init__(self, *, for_end: bool) -> None:
        self.for_end = for_end
        self.event = asyncio.Event()
        self._due = False
        self._shared = _shared_of(asyncio.get_running_loop())

    def ring(self) -> None:
        """Let the loop set the event."""
        if not self._due:
            self._due = True
            self._shared.add(self)

    def set(self) -> None:
        """Set the event, in its loop."""
        self._due = False  # first, so that a change from here on rings again
        self.event.set()


class _SharedCall:
    """The call into one loop that sets all alarms which rang before it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)  # the key of `_SHARED`
        self._due: deque[Alarm] = deque()
        self._called = False

    def add(self, alarm: Alarm) -> None:
        self._due.append(alarm)
        if self._called:
            return
        self._called = True
        loop = self._loop()
        try:
            if loop is not None:
                loop.call_soon_threadsafe(self._set)
        except RuntimeError:  # the loop was closed before its reader left
            self._due.clear()

    def _set(self) -> None:
        self._called = False  # first, so that an alarm from here on calls again
        while self._due:
            self._due.popleft().set()


_SHARED: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _SharedCall] = (
    weakref.WeakKeyDictionary()
)


def _shared_of(loop: asyncio.AbstractEventLoop) -> _SharedCall:
    found = _SHARED.get(loop)  # only this loop's own thread looks for it
    if found is None:
        found = _SHARED[loop] = _SharedCall(loop)
    return found
