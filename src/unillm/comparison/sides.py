# SPDX-License-Identifier: Apache-2.0

"""A side of a comparison as a process of its own: started, asked, ended.

The two processes share JSON lines over pipes and nothing else. So a side may use
another Python with another engine, and its crash ends this side alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

import attrs

from ..errors import SideFailedError
from .verdict import Answer
from .worker import CONVERTER, Done, Ready, Task

GRACE_S = 10.0
"""Seconds that a side has to end before it is killed."""

SHOWN_LINES = 15
"""Last lines of standard error in the message of a side that ended early."""


@attrs.frozen(kw_only=True)
class Side:
    """Backend and interpreter of one side."""

    options: Mapping[str, Any] = attrs.field(factory=dict)
    """Options of `Generator`, ``backend`` among them, as JSON values."""
    python: str = sys.executable
    """Interpreter whose environment has unillm and the engine."""


@attrs.frozen(kw_only=True)
class SideReport:
    """The answers of one side to all prompts."""

    ready: Ready
    answers: Sequence[Answer]
    done: Done


def ask(
    side: Side, task: Task, prompts: Sequence[Any], *, show_log: bool = False
) -> SideReport:
    """Run one side to its end.

    Args:
        side: Backend and interpreter.
        task: Model and length of the answers; the options of *side* override its own.
        prompts: Prompts in any form that `Generator.generate` takes, as JSON values.
        show_log: Show the side's standard error on this process's.

    Raises:
        SideFailedError: The process cannot be started, ended early, or sent an error.
    """
    task = attrs.evolve(task, options={**task.options, **side.options})
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        with _process(side, None if show_log else log) as process:
            lines = _exchange(process, task, prompts)
            try:
                ready = CONVERTER.structure(next(lines)["ready"], Ready)
                answers = [
                    CONVERTER.structure(next(lines)["answer"], Answer) for _ in prompts
                ]
                done = CONVERTER.structure(next(lines)["done"], Done)
            except StopIteration:
                process.wait()
                raise _ended_early(side, process.returncode, _tail(log)) from None
        return SideReport(ready=ready, answers=answers, done=done)


@contextlib.contextmanager
def _process(side: Side, log: IO[str] | None) -> Iterator[subprocess.Popen[str]]:
    """Start a side; at the end of the block, end it with all its children."""
    try:
        process = subprocess.Popen(  # noqa: S603 - the user's own choice
            [side.python, "-m", "unillm.comparison.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            encoding="utf-8",
            start_new_session=True,
        )
    except OSError as error:
        raise SideFailedError(
            f"{side.python} cannot be run: {error.strerror}. --python takes the path "
            "of a Python interpreter.",
            kind="ConfigError",
        ) from error
    # A child that outlives the process would keep the pipe open for ever.
    watch = threading.Thread(target=_end_group_with, args=(process,), daemon=True)
    watch.start()
    try:
        yield process
    finally:
        for stream in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                stream.close()  # type: ignore[union-attr] # both are pipes
        watch.join(GRACE_S)
        if watch.is_alive():
            process.kill()
            watch.join()


def _end_group_with(process: subprocess.Popen[str]) -> None:
    """Wait for a process, then kill what is left of its group."""
    process.wait()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _exchange(
    process: subprocess.Popen[str], task: Task, prompts: Sequence[Any]
) -> Iterator[dict[str, Any]]:
    """Send a side its task and prompts, and yield the lines that it sends back.

    Raises:
        SideFailedError: A line is an error, or is not a line of this protocol.
    """
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError):  # it has ended; `ask` says how
        for line in [attrs.asdict(task), *prompts, {"end": True}]:
            process.stdin.write(json.dumps(line) + "\n")
        process.stdin.flush()
    for text in process.stdout:
        try:
            line = json.loads(text)
        except ValueError:
            raise SideFailedError(
                f"The process {process.args[0]!r} printed {text[:80]!r}, which is not "  # type: ignore[index]
                "a line of a comparison: something prints when that Python starts.",
                kind="ConfigError",
            ) from None
        if "error" in line:
            raise SideFailedError(line["error"]["message"], kind=line["error"]["kind"])
        yield line


def _tail(log: IO[str]) -> str:
    log.seek(0)
    return "".join(f"  {line}" for line in log.readlines()[-SHOWN_LINES:]).rstrip()


def _ended_early(side: Side, status: int, log: str) -> SideFailedError:
    how = (
        f"was ended by {signal.Signals(-status).name}"
        if status < 0
        else f"ended with exit status {status}"
    )
    output = f" Its last lines:\n{log}" if log else " It printed nothing."
    advice = (
        f"\nInstall unillm there: {side.python} -m pip install unillm"
        if "No module named 'unillm" in log
        else ""
    )
    return SideFailedError(
        f"The process {side.python} {how} before it had answered.{output}{advice}",
        kind="EngineDeadError",
    )
