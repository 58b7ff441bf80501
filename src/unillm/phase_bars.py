# SPDX-License-Identifier: Apache-2.0

"""Phases as bars on a terminal, gone when the wait is over."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .byte_text import size
from .phases import PhaseStatus, current_listener, listening

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


@contextmanager
def shown_phases() -> Iterator[None]:
    """Show the phases inside the block on standard error, if that is a terminal.

    A listener of the caller gets them in place of the terminal. A debug log shows more
    than bars, and would break them.
    """
    debugging = logging.getLogger("unillm").isEnabledFor(logging.DEBUG)
    if current_listener() is not None or debugging or not _is_terminal():
        yield
        return
    bars = _Bars()
    try:
        with listening(bars):
            yield
    finally:
        bars.close()


def _is_terminal() -> bool:
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):  # closed
        return False


class _Bars:
    """Draws one line for each phase: name, size, progress and seconds."""

    def __init__(self) -> None:
        self._changing = threading.Lock()
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._closed = False

    def __call__(self, status: PhaseStatus) -> None:
        with self._changing:
            if self._closed:  # an engine goes on to report to the thread that made it
                return
            if status.is_over:
                task = self._tasks.pop(status.name, None)
                if self._progress is not None and task is not None:
                    self._progress.remove_task(task)
                if not self._tasks:
                    self._stop()
                return
            if self._progress is None:
                self._progress = _drawing()
                self._progress.start()
            words = _words(status)
            if status.name not in self._tasks:
                self._tasks[status.name] = self._progress.add_task(words, total=None)
            self._progress.update(
                self._tasks[status.name],
                description=words,
                total=None if status.fraction is None else 1.0,
                completed=status.fraction or 0.0,
            )

    def close(self) -> None:
        """Remove the bars; later phases are not shown."""
        with self._changing:
            self._closed = True
            self._stop()

    def _stop(self) -> None:
        """Leave the terminal, and the cores of what is measured there, alone."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def _drawing() -> Progress:
    from rich import progress
    from rich.console import Console

    return progress.Progress(
        progress.SpinnerColumn(),
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(bar_width=20),
        progress.TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        # Standard output may be a file; what stands on standard error moves up.
        redirect_stdout=False,
    )


def _words(status: PhaseStatus) -> str:
    words = status.name
    if status.total_bytes:
        words += f" ({size(status.total_bytes)})"
    return f"{words}: {status.message}" if status.message else words
