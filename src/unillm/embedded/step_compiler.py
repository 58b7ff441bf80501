# SPDX-License-Identifier: Apache-2.0

"""The process that compiles a decode step beside an engine (`steps.compiling`).

It reads a task from its standard input and writes an answer to its standard output. It
imports torch only once it has seen to it that it ends when the program does, and takes
the time that nothing else wants.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import struct
import sys
import threading

_PR_SET_PDEATHSIG = 1
"""The operation of Linux's ``prctl`` that asks for a signal when the parent ends."""


def main() -> None:
    """Compile the step of a task, and answer."""
    _end_with_program()
    _take_idle_time()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # for what torch and C++ compilers print
    with os.fdopen(0, "rb", closefd=False) as tasks:
        (size,) = struct.unpack("<Q", tasks.read(8))
        task = tasks.read(size)
    threading.Thread(target=_wait_for_end, daemon=True).start()

    from .steps.tracing import compile_task

    with answers:
        answers.write(compile_task(task))


def _end_with_program() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _wait_for_end() -> None:
    """Kill this process and its compilers when the program closes the pipe."""
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)


def _take_idle_time() -> None:
    os.nice(19)
    with contextlib.suppress(AttributeError, OSError):  # not Linux, or not allowed
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
