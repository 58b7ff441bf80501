# SPDX-License-Identifier: Apache-2.0

"""A process of another interpreter that exchanges JSON lines with this one.

The two processes share pipes and nothing else. So the child may have another Python
with another engine, and its crash ends the child alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Iterator
from typing import IO, Any

from typing_extensions import Self

from ..errors import SideFailedError

GRACE_S = 10.0
"""Seconds that a child has to end before it is killed."""

SHOWN_LINES = 15
"""Last lines of standard error in the message of a child that ended early."""


class Child:
    """A module that runs in an interpreter, as a context manager.

    The end of the block ends the process with all its children.

    Args:
        python: Interpreter whose environment has unillm and the engine.
        module: Module that reads and writes the lines.
        show_log: Show the child's standard error on this process's.

    Raises:
        SideFailedError: The process cannot be started, ended early, or sent an error.
    """

    def __init__(self, python: str, module: str, *, show_log: bool = False) -> None:
        self._python = python
        self._module = module
        self._log: IO[str] | None = None
        if not show_log:
            self._log = tempfile.TemporaryFile(  # noqa: SIM115 - closed by __exit__
                "w+", encoding="utf-8", errors="replace"
            )

    def __enter__(self) -> Self:
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the user's own choice
                [self._python, "-m", self._module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                encoding="utf-8",
                start_new_session=True,
            )
        except OSError as error:
            self._close_log()
            raise SideFailedError(
                f"{self._python} cannot be run: {error.strerror}. --python takes the "
                "path of a Python interpreter.",
                kind="ConfigError",
            ) from error
        # A grandchild that outlives the process would keep the pipe open for ever.
        self._watch = threading.Thread(target=self._end_group, daemon=True)
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                stream.close()  # type: ignore[union-attr] # both are pipes
        self._watch.join(GRACE_S)
        if self._watch.is_alive():
            self._process.kill()
            self._watch.join()
        self._close_log()

    @property
    def pid(self) -> int:
        """Number of the process, which leads a session of its own."""
        return self._process.pid

    def send(self, lines: Iterable[Any]) -> None:
        """Write JSON lines; a child that has ended reads none."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `lines` says how it ended
            for line in lines:
                self._process.stdin.write(json.dumps(line) + "\n")
            self._process.stdin.flush()

    def receive(self, key: str) -> Any:
        """Return the value of the next line, which has this key.

        Raises:
            SideFailedError: The child ended, or its line is an error, or is not a line
                of such an exchange.
        """
        return next(self.lines())[key]

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yield what the child writes.

        Raises:
            SideFailedError: The child ended, or its line is an error, or is not a line
                of such an exchange.
        """
        assert self._process.stdout is not None
        for text in self._process.stdout:
            try:
                line = json.loads(text)
            except ValueError:
                raise SideFailedError(
                    f"The process {self._python!r} printed {text[:80]!r}, which is not "
                    "a line of JSON: something prints when that Python starts.",
                    kind="ConfigError",
                ) from None
            if "error" in line:
                error = line["error"]
                raise SideFailedError(error["message"], kind=error["kind"])
            yield line
        self._process.wait()
        raise self._ended_early()

    def _end_group(self) -> None:
        """Wait for the process, then kill what is left of its group."""
        self._process.wait()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _close_log(self) -> None:
        if self._log is not None:
            self._log.close()

    def _tail(self) -> str:
        if self._log is None:
            return ""
        self._log.seek(0)
        lines = self._log.readlines()[-SHOWN_LINES:]
        return "".join(f"  {line}" for line in lines).rstrip()

    def _ended_early(self) -> SideFailedError:
        status, log = self._process.returncode, self._tail()
        how = (
            f"was ended by {signal.Signals(-status).name}"
            if status < 0
            else f"ended with exit status {status}"
        )
        output = f" Its last lines:\n{log}" if log else " It printed nothing."
        advice = (
            f"\nInstall unillm there: {self._python} -m pip install unillm"
            if "No module named 'unillm" in log
            else ""
        )
        return SideFailedError(
            f"The process {self._python} {how} before it had answered.{output}{advice}",
            kind="EngineDeadError",
        )
