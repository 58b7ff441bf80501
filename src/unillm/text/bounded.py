# SPDX-License-Identifier: Apache-2.0

"""Running what a checkpoint wrote for no longer than it may take."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class _TimeUp(BaseException):
    """Thrown into the thread of a call whose time is up."""


class _Call(Generic[T]):
    """A call on a thread of its own, and what became of it."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self.result: list[T] = []
        self.error: BaseException | None = None
        self.thread = threading.Thread(
            target=self._run, name="unillm-bounded", daemon=True
        )

    def _run(self) -> None:
        try:
            self.result.append(self._work())
        except BaseException as error:  # noqa: BLE001 - the caller raises it
            self.error = error

    def stop(self) -> None:
        """Raise in the thread, at its next step of Python code."""
        ident = self.thread.ident
        assert ident is not None
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(ident), ctypes.py_object(_TimeUp)
        )


def call_within(seconds: float, work: Callable[[], T]) -> T:
    """Return what *work* returns, or raise what it raises.

    Args:
        seconds: After so many, *work* is stopped at its next step of Python code. A
            single call into C goes on to its own end.
        work: Called once, on another thread.

    Raises:
        TimeoutError: It took longer.
    """
    call = _Call(work)
    call.thread.start()
    try:
        call.thread.join(seconds)
    finally:
        if late := call.thread.is_alive():
            call.stop()
    if late:
        raise TimeoutError(f"it had not ended after {seconds:g} s")
    if call.error is not None:
        raise call.error
    return call.result[0]
