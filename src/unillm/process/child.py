# SPDX-License-Identifier: Apache-2.0

"""`Child`: a process of some interpreter, with all its own children in one session.

It is started without a fork of this program's memory, has no terminal, and prints to
this program's standard error. When it ends, by whatever signal, everything in its
session ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from ..errors import ConfigError

SHOWN_LINES = 15
"""Last lines of standard error in the message of a process that ended early."""

_LONGEST_LINE = 2000
_DRAIN_S = 0.5
"""How long output of an ended process is waited for."""

_PR_SET_PDEATHSIG = 1
"""The operation of Linux's ``prctl`` that asks for a signal."""

_OF_AN_INTERPRETER = (
    "PYTHONHOME",
    "PYTHONPATH",
    "PYTHONEXECUTABLE",
    "VIRTUAL_ENV",
    "__PYVENV_LAUNCHER__",
)
"""Variables that would give one interpreter the packages of another."""


def interpreter(python: str | os.PathLike[str]) -> str:
    """Return the path of an interpreter; a directory stands for its ``bin/python``.

    A link is not followed: an environment's interpreter is one.

    Raises:
        ConfigError: No file can have the name.
    """
    try:
        path = Path(os.path.expanduser(python))
        return str(path / "bin" / "python" if path.is_dir() else path)
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"python={os.fspath(python)!r:.200} is not the path of an interpreter: "
            f"{error}."
        ) from error


class Child:
    """A running process.

    Args:
        python: Path of the interpreter.
        module: Module that is run there.
        sockets: Ends of socket pairs that it inherits; their numbers are its arguments.
            This side's copies are closed.
        stdio: Whether its standard input and output are text streams of this process,
            `stdin` and `stdout`.
        environment: Variables besides those of this process.
        echo: Whether its standard error appears on this process's.
        on_end: Called on another thread when it has ended.

    Raises:
        OSError: The interpreter cannot be run.
        ValueError: No file can have its name.
    """

    def __init__(
        self,
        python: str,
        module: str,
        sockets: Sequence[socket.socket] = (),
        *,
        stdio: bool = False,
        environment: Mapping[str, str] | None = None,
        echo: bool = True,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self.python = python
        self._lines: deque[str] = deque(maxlen=SHOWN_LINES)
        self._on_end = on_end
        self._ended = threading.Event()
        numbers = [each.fileno() for each in sockets]
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the user's own choice
                [python, "-m", module, *map(str, numbers)],
                stdin=subprocess.PIPE if stdio else subprocess.DEVNULL,
                stdout=subprocess.PIPE if stdio else subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=numbers,
                env=_environment(python, environment or {}),
                start_new_session=True,  # Ctrl-C is for this program
            )
        finally:
            for each in sockets:
                each.close()
        self.pid = self._process.pid
        if stdio:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self.stdin = io.TextIOWrapper(self._process.stdin, "utf-8")
            self.stdout = io.TextIOWrapper(self._process.stdout, "utf-8")
        assert self._process.stderr is not None
        pump = threading.Thread(
            target=self._pump,
            args=(self._process.stderr, echo),
            name="unillm-process-log",
            daemon=True,
        )
        pump.start()
        threading.Thread(
            target=self._watch, args=(pump,), name="unillm-process-end", daemon=True
        ).start()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the process and its session have ended; return whether they have.

        Its standard error is read, and `on_end` was called.
        """
        return self._ended.wait(timeout_s)

    def kill(self) -> None:
        """Kill the process and its session, from any thread."""
        if not self._ended.is_set():
            kill_session(self.pid)

    def end(self, grace_s: float) -> None:
        """Wait for the process, and kill it if it takes too long."""
        if not self.wait(grace_s):
            self.kill()
            self.wait()

    def obituary(self, moment: str = "") -> str:
        """Return how the process ended and what it last printed, as text.

        Args:
            moment: Words for when it ended, such as ``"before it had answered"``.
        """
        status = self._process.returncode
        if status is None:
            how = "has not ended"
        elif status < 0:
            how = f"was ended by {_signal_name(-status)}"
            if status == -signal.SIGKILL:
                how += ", as the kernel does when memory runs out"
        else:
            how = f"ended with exit status {status}"
        lines = "".join(f"\n  {line}" for line in self._lines)
        output = f" Its last lines:{lines}" if lines else " It printed nothing"
        when = f" {moment}" if moment else ""
        return f"The process {self.python} (id {self.pid}) {how}{when}.{output}"

    def printed(self, text: str) -> bool:
        """Return whether its last lines have *text*."""
        return any(text in line for line in self._lines)

    def _watch(self, pump: threading.Thread) -> None:
        with contextlib.suppress(ChildProcessError):
            # The process stays a zombie meanwhile, so that its session keeps its id.
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        kill_session(self.pid)
        self._process.wait()
        pump.join(_DRAIN_S)
        self._on_end()
        self._ended.set()

    def _pump(self, stream: IO[bytes], echo: bool) -> None:
        rest = b""
        with stream:
            while found := os.read(stream.fileno(), 65536):
                if echo:
                    _write_to_stderr(found)
                *lines, rest = (rest + found).replace(b"\r", b"\n").split(b"\n")
                rest = rest[-_LONGEST_LINE:]
                self._lines += [
                    line[:_LONGEST_LINE].decode("utf-8", "backslashreplace")
                    for line in lines
                    if line.strip()
                ]
        if rest.strip():
            self._lines.append(rest.decode("utf-8", "backslashreplace"))


def _write_to_stderr(found: bytes) -> None:
    with contextlib.suppress(OSError, ValueError):  # closed, or replaced by a test
        os.write(2, found)


def _environment(python: str, changed: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a process of *python*."""
    variables = dict(os.environ)
    if python != sys.executable:
        for name in _OF_AN_INTERPRETER:
            variables.pop(name, None)
    # Modules of the working directory stay hidden there (from Python 3.11 on).
    variables["PYTHONSAFEPATH"] = "1"
    return {**variables, **changed}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def wake_when_parent_ends() -> None:
    """Let the kernel continue this process when its parent ends.

    A stopped process would not see that end, and stay for ever. Linux alone does this;
    the signal also comes when a thread of the parent ends, and changes nothing then.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGCONT)


def kill_session(leader: int) -> None:
    """Kill all processes of a session; without ``/proc``, those of its first group."""
    if not Path("/proc/self/stat").exists():  # not Linux
        if leader == os.getpid():
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(leader, signal.SIGKILL)
        return
    for _ in range(3):  # a process may fork meanwhile
        found = [pid for pid in _members(leader) if pid != os.getpid()]
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if not found:
            return
        time.sleep(0.002)


def _members(leader: int) -> Iterator[int]:
    """Yield the processes of a session that have not ended."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name of the program, in brackets, may hold anything.
            state, _, _, session, *_ = path.read_bytes().rpartition(b")")[2].split()
        except (OSError, ValueError):
            continue  # it has ended
        if int(session) == leader and state not in (b"Z", b"X"):
            yield int(path.parent.name)
