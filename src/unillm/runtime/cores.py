# SPDX-License-Identifier: Apache-2.0

"""`CoreWatch`: an engine's OpenMP threads wait in loops only while they have the cores.

GNU's OpenMP, which torch brings on Linux, lets the threads of a team wait for each
other in a loop before they sleep. On idle cores that saves the time of waking them; as
soon as another thread wants one of the cores, the team spends nearly all its time in
that loop. The library leaves the loop after a hundred turns where its threads are more
than the cores (`GOMP_SPINCOUNT`_), so an idle team of a thread of ours switches the
loops of all teams off, and its end switches them on again.

.. _GOMP_SPINCOUNT: https://gcc.gnu.org/onlinedocs/libgomp/GOMP_005fSPINCOUNT.html
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ..openmp import chooses_spins, libraries

log = logging.getLogger("unillm.cores")

INTERVAL_S = 0.25
"""How often the watch looks while an engine works."""

CROWDED = 0.25
"""Loops end where the threads have waited for a core for this part of the time."""

FREE = 0.1
"""Loops begin again where they have waited for no more than this part of it."""

FIRST_REST_S, LONGEST_REST_S = 2.0, 64.0
"""Time without loops before they are tried again. Each try that fails doubles it."""


@contextlib.contextmanager
def watched_cores() -> Iterator[Callable[[], None]]:
    """Give what an engine's thread calls between steps: `CoreWatch.look`.

    It does nothing where the user has said how threads wait.
    """
    if not chooses_spins():
        yield lambda: None
        return
    teams = IdleTeams()
    try:
        yield CoreWatch(waited_s, teams).look
    finally:
        teams.release()


class CoreWatch:
    """Switches the loops off while the threads of this process wait for cores.

    Args:
        waited: Returns the seconds that all threads have waited for a core, or `None`
            where the system does not count them.
        teams: What is held while threads shall not wait in loops.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        waited: Callable[[], float | None],
        teams: IdleTeams,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._waited = waited
        self._teams = teams
        self._clock = clock
        self._last: tuple[float, float] | None = None
        """When it looked, and what the threads had waited until then."""
        self._since = -math.inf
        """When the loops were switched."""
        self._rest_s = FIRST_REST_S

    def look(self) -> None:
        """Switch the loops off or on. Call it between steps; mostly it does nothing."""
        now, last = self._clock(), self._last
        if last is not None and now - last[0] < INTERVAL_S:
            return
        waited = self._waited()
        if waited is None:
            return
        self._last = (now, waited)
        # Over a longer time, the engine has had nothing to do.
        if last is not None and now - last[0] <= 2 * INTERVAL_S:
            self._judge(now, (waited - last[1]) / (now - last[0]))

    def _judge(self, now: float, crowd: float) -> None:
        if not self._teams.held and crowd > CROWDED:
            failed = now - self._since < 2 * FIRST_REST_S
            self._rest_s = (
                min(2 * self._rest_s, LONGEST_REST_S) if failed else FIRST_REST_S
            )
            self._teams.hold()
        elif self._teams.held and crowd < FREE and now - self._since > self._rest_s:
            self._teams.release()
        else:
            return
        self._since = now


class IdleTeams:
    """A team of sleeping OpenMP threads in each of the process's copies of libgomp."""

    held = False

    def __init__(self) -> None:
        self._release = threading.Event()

    def hold(self) -> None:
        """Make the teams, which have more threads than there are cores."""
        self.held = True
        self._release = threading.Event()
        ready = threading.Event()
        # A team belongs to the thread that made it, and ends with it.
        arguments = (libraries(), ready, self._release)
        thread = threading.Thread(
            target=_hold, args=arguments, name="unillm-cores", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:  # as many threads as the system allows
            log.warning("the threads wait in loops for busy cores: %s", error)
            return
        ready.wait()

    def release(self) -> None:
        """End the teams."""
        self._release.set()
        self.held = False


def _hold(paths: list[str], ready: threading.Event, release: threading.Event) -> None:
    try:
        threads = len(os.sched_getaffinity(0)) + 1
        # The threads run a function of C that takes nothing and returns at once.
        nothing = ctypes.cast(ctypes.CDLL(None).getpid, ctypes.c_void_p)
        for path in paths:
            library = ctypes.CDLL(path)
            library.GOMP_parallel(nothing, None, ctypes.c_uint(threads), 0)
    except (OSError, AttributeError) as error:  # not the library that it looks like
        log.warning("the threads wait in loops for busy cores: %s", error)
    finally:
        ready.set()
    release.wait()


def waited_s() -> float | None:
    """Return how long this process's threads, which live, have waited for a core.

    Returns:
        Seconds since their starts, added up; `None` where the kernel does not count.
    """
    total = 0
    try:
        for thread in os.scandir("/proc/self/task"):
            try:
                words = Path(thread.path, "schedstat").read_text().split()
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended
            total += int(words[1])
    except (OSError, IndexError, ValueError):
        return None
    return total / 1e9
