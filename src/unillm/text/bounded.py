# SPDX-License-Identifier: Apache-2.0

"""Calls that end, and errors that can be caught, for what a checkpoint describes."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

_STACK_LOCK = threading.Lock()


class _TimeUpError(BaseException):
    """Raised in the thread of a call whose time is up."""


def call_within(seconds: float, work: Callable[[], T], *, stack_bytes: int = 0) -> T:
    """Return the result of *work*, or raise what it raises.

    Args:
        seconds: Limit. After it, *work* stops at its next step of Python code; a single
            call into C goes on to its own end.
        work: Called once, on another thread.
        stack_bytes: Stack of that thread; 0 for the usual size.

    Raises:
        TimeoutError: The limit has passed.
    """
    results: list[T] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(work())
        except Exception as error:  # noqa: BLE001 - the caller raises it
            errors.append(error)
        except BaseException as error:  # noqa: BLE001 - a panic of Rust code, or _TimeUpError
            errors.append(RuntimeError(repr(error)))

    thread = threading.Thread(target=run, name="unillm-bounded", daemon=True)
    with _STACK_LOCK:
        # Python sets the size for all threads that start meanwhile.
        before = threading.stack_size(stack_bytes) if stack_bytes else 0
        try:
            thread.start()
        finally:
            if stack_bytes:
                threading.stack_size(before)
    try:
        thread.join(seconds)
    finally:
        if late := thread.is_alive():
            assert thread.ident is not None
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(thread.ident), ctypes.py_object(_TimeUpError)
            )
    if late:
        raise TimeoutError(f"it had not ended after {seconds:g} s")
    if errors:
        raise errors[0]
    return results[0]


@contextmanager
def panics_as_errors() -> Iterator[None]:
    """Raise a panic of Rust code, which is not an `Exception`, as a `RuntimeError`."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise RuntimeError(str(error)) from error
