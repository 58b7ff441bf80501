# SPDX-License-Identifier: Apache-2.0

"""A process of another interpreter that exchanges JSON lines with this one.

The two processes share pipes and nothing else. So the child may have another Python
with another engine, and its crash ends the child alone.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from typing import Any

from typing_extensions import Self

from ..distributions import install
from ..errors import SideFailedError
from ..phases import PhaseStatus, current_listener
from ..process import child as process

GRACE_S = 10.0
"""Seconds that a child has to end before it is killed."""


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
        self._show_log = show_log

    def __enter__(self) -> Self:
        try:
            self._child = process.Child(
                self._python, self._module, stdio=True, echo=self._show_log
            )
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise SideFailedError(
                f"{self._python} cannot be run: {why}. --python takes the path of a "
                "Python interpreter.",
                kind="ConfigError",
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        for stream in (self._child.stdin, self._child.stdout):
            with contextlib.suppress(OSError):
                stream.close()
        self._child.end(GRACE_S)

    @property
    def pid(self) -> int:
        """Number of the process, which leads a session of its own."""
        return self._child.pid

    def send(self, lines: Iterable[Any]) -> None:
        """Write JSON lines; a child that has ended reads none."""
        with contextlib.suppress(BrokenPipeError):  # `lines` says how it ended
            for line in lines:
                self._child.stdin.write(json.dumps(line) + "\n")
            self._child.stdin.flush()

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
        for text in self._child.stdout:
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
            if "phase" in line:
                if (listener := current_listener()) is not None:
                    listener(PhaseStatus(**line["phase"]))
                continue
            yield line
        self._child.wait()
        missing = self._child.printed("No module named 'unillm")
        advice = f"\nInstall unillm there: {install(python=self._python)}"
        raise SideFailedError(
            self._child.obituary("before it had answered") + advice * missing,
            kind="EngineDeadError",
        )
