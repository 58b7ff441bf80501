# SPDX-License-Identifier: Apache-2.0

"""A side of a comparison as a process of its own: started, asked, ended.

The two processes share nothing but JSON lines over pipes, so a side may use another
Python with another engine installed, and one that crashes takes nothing with it.
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
from .worker import Done, Ready, Task

GRACE_S = 10.0
"""Seconds that a side has to end by itself before it is killed."""

SHOWN_LINES = 15
"""Of a side's standard error, where it failed without a word."""


@attrs.frozen(kw_only=True)
class Side:
    """What runs on one side."""

    options: Mapping[str, Any] = attrs.field(factory=dict)
    """Of `Generator`, ``backend`` among them; JSON values."""
    python: str = sys.executable
    """Interpreter whose environment has unillm and the engine."""
    show_log: bool = False
    """Let its standard error through to this process's."""


@attrs.frozen(kw_only=True)
class SideReport:
    """What a side said of all prompts."""

    ready: Ready
    answers: Sequence[Answer]
    done: Done


def ask(side: Side, task: Task, prompts: Sequence[Any]) -> SideReport:
    """Run one side to its end.

    Args:
        side: Where to run it.
        task: What to load and how to generate; *side*'s options go on top.
        prompts: In any form that `Generator.generate` takes, as JSON values.

    Raises:
        SideFailedError: It could not be started, ended early, or reported an error.
    """
    task = attrs.evolve(task, options={**task.options, **side.options})
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        with _process(side, None if side.show_log else log) as process:
            lines = _conversation(process, task, prompts)
            try:
                ready = Ready(**next(lines)["ready"])
                answers = [Answer.from_json(next(lines)["answer"]) for _ in prompts]
                done = Done(**next(lines)["done"])
            except StopIteration:
                process.wait()
                raise _ended_early(side, process.returncode, _tail(log)) from None
        return SideReport(ready=ready, answers=answers, done=done)


@contextlib.contextmanager
def _process(side: Side, log: IO[str] | None) -> Iterator[subprocess.Popen[str]]:
    """Start a side, and end it with all that it started, whatever happens."""
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
    # A child of its own that outlives it would keep the pipe open for ever.
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
    """Wait for a process, and end what it leaves behind."""
    process.wait()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _conversation(
    process: subprocess.Popen[str], task: Task, prompts: Sequence[Any]
) -> Iterator[dict[str, Any]]:
    """Tell a side what to do, and yield its lines.

    Raises:
        SideFailedError: A line is an error, or is no line of ours.
    """
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError):  # it has ended; the caller sees why
        for line in [attrs.asdict(task), *prompts, {"end": True}]:
            process.stdin.write(json.dumps(line) + "\n")
        process.stdin.flush()
    for text in process.stdout:
        try:
            told = json.loads(text)
        except ValueError:
            raise SideFailedError(
                f"The process {process.args[0]!r} said {text[:80]!r}, which is no line "  # type: ignore[index]
                "of a comparison: something prints when that Python starts.",
                kind="ConfigError",
            ) from None
        if "error" in told:
            raise SideFailedError(told["error"]["message"], kind=told["error"]["kind"])
        yield told


def _tail(log: IO[str]) -> str:
    log.seek(0)
    return "".join(f"  {line}" for line in log.readlines()[-SHOWN_LINES:]).rstrip()


def _ended_early(side: Side, status: int, log: str) -> SideFailedError:
    how = (
        f"was ended by {signal.Signals(-status).name}"
        if status < 0
        else f"ended with exit status {status}"
    )
    said = f" The last that it said:\n{log}" if log else " It said nothing."
    advice = (
        f"\nInstall unillm there: {side.python} -m pip install unillm"
        if "No module named 'unillm" in log
        else ""
    )
    return SideFailedError(
        f"The process {side.python} {how} before it had answered.{said}{advice}",
        kind="EngineDeadError",
    )
