# SPDX-License-Identifier: Apache-2.0

"""Phases of the wait for an engine: imports, weights, graphs, builds.

An engine reports its phases with `phase`, and `listening` passes them to a caller.
Without a listener a phase costs nothing. The listener belongs to the context of the
caller, so that threads which load at the same time do not hear each other; `Driver`
takes the context along to its thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

import attrs


@attrs.frozen(kw_only=True)
class PhaseStatus:
    """Status of a phase."""

    name: str
    """Work in a few words, such as ``"loading the weights"``."""
    message: str = ""
    """The part of it that is under way."""
    fraction: float | None = None
    """Part that is done; `None` if unknown."""
    total_bytes: int | None = None
    """Size of what is worked on; `None` if unknown."""
    is_over: bool = False


Listener = Callable[[PhaseStatus], None]
"""Called from any thread, and raises nothing."""


class Report(Protocol):
    """**Protocol:** A function of this module by which a phase reports on itself."""

    def __call__(self, message: str = "", *, fraction: float | None = None) -> None:
        """Report the current work.

        Args:
            message: A few words, such as ``"layer 3 of 32"``.
            fraction: Part of the phase that is done; `None` if unknown.
        """


_LISTENER: ContextVar[Listener | None] = ContextVar("unillm_phases", default=None)


def current_listener() -> Listener | None:
    """Return the listener of this context, for threads that have another one."""
    return _LISTENER.get()


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Hear the phases inside the block, and of the threads that take its context."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


@contextmanager
def phase(name: str, *, total_bytes: int | None = None) -> Iterator[Report]:
    """Report a phase, which lasts as long as the block.

    Args:
        name: Work in a few words.
        total_bytes: Size of what is worked on; `None` if unknown.
    """
    listener = _LISTENER.get()

    def report(message: str = "", *, fraction: float | None = None) -> None:
        if listener is not None:
            listener(
                PhaseStatus(
                    name=name,
                    message=message,
                    fraction=fraction,
                    total_bytes=total_bytes,
                )
            )

    report()
    try:
        yield report
    finally:
        if listener is not None:
            listener(PhaseStatus(name=name, total_bytes=total_bytes, is_over=True))
