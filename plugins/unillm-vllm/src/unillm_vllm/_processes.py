# SPDX-License-Identifier: Apache-2.0

"""The processes of vLLM: they end with this program, and report their errors.

Without this module, vLLM leaves its engine running when the program is killed, ends the
engine at Ctrl-C, blocks for ever when the engine is killed, and says "see the log" when
it cannot start. The module has a part in the program and one inside those processes.

vLLM loads its plugins inside its processes, and `attach` is one of them. It acts only
in processes that an engine of this plugin has started. There it

- ends the process when its parent is gone, for whatever reason;
- leaves the terminal's process group, so that Ctrl-C reaches the caller alone;
- writes errors to a file, for `EngineProcesses.report`.

Imports no vLLM.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from multiprocessing.util import register_after_fork
from pathlib import Path
from typing import cast

import attrs
from typing_extensions import override

from unillm.errors import ConfigError

from ._generators import keep_generators_of_partial_prompts

OWNER_VARIABLE = "UNILLM_VLLM_OWNER"
"""Set during the start of an engine: id of the starting process, a colon, and the path
of the file for errors. The engine's processes inherit it."""

PLUGIN = "unillm"
"""Name of `attach` among vLLM's plugins."""

LOOK_S = 0.5
"""Interval at which a process checks its parent."""

REAP_S = 1.0
"""Time between the end of a process and its exit code."""

GRACE_S = 15.0
"""Time for a regular end when the parent is gone. On a busy CPU the engine took 9 s."""

MISSING_GUARD = (
    "vLLM starts its engine in processes that import the program's main module again, "
    "and that module creates a Generator on import. Put the code of the program under "
    '`if __name__ == "__main__":`, or pass backend_options={"multiprocessing": False}, '
    "which needs no processes."
)


# ---------------------------------------------------------------------- in the program


@attrs.frozen
class Report:
    """The first error of a process."""

    kind: str
    """Name of its class."""
    message: str


_STARTS = threading.Lock()
"""Held during a start, so that new processes and variables belong to one engine."""


class EngineProcesses:
    """The processes of one engine, from before its start until their end."""

    def __init__(self) -> None:
        descriptor, path = tempfile.mkstemp(prefix="unillm-vllm-", suffix=".jsonl")
        os.close(descriptor)
        self._path = Path(path)
        self._before: set[BaseProcess] = set()
        self._children: list[BaseProcess] = []
        self._closing = False

    @contextmanager
    def starting(self) -> Iterator[None]:
        """Mark the processes that start inside the block; one engine at a time.

        Raises:
            ConfigError: This is such a process itself, importing the main module.
        """
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            if OWNER_VARIABLE in os.environ:
                _write(_owner()[1], Report("MissingGuard", MISSING_GUARD))
            raise ConfigError(MISSING_GUARD)
        _watch_forks()
        changed = {OWNER_VARIABLE: f"{os.getpid()}:{self._path}"}
        with _STARTS:
            self._before = set(multiprocessing.active_children())
            if allowed := os.environ.get("VLLM_PLUGINS"):
                changed["VLLM_PLUGINS"] = f"{allowed},{PLUGIN}"
            with environment(changed):
                yield

    def started(self) -> None:
        """Record the processes that have started and attached since `starting`."""
        children = set(multiprocessing.active_children()) - self._before
        self._children = sorted(
            (child for child in children if _leads_a_group(child)),
            key=lambda child: child.pid or 0,
        )

    def count(self) -> int:
        """Return the number of processes."""
        return len(self._children)

    def ended(self) -> bool:
        """Whether one of them has ended."""
        return any(not child.is_alive() for child in self._children)

    def report(self) -> Report | None:
        """Return the first error that a process wrote."""
        try:
            first, *_ = self._path.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError):
            return None
        return Report(**json.loads(first))

    def watch(self, on_death: Callable[[], None]) -> None:
        """Call *on_death* on another thread when a process ends before `close`."""
        # Copies, because vLLM closes its own when it cleans up.
        watched = {os.dup(child.sentinel): child for child in self._children}
        if not watched:
            return

        def wait() -> None:
            for sentinel in connection.wait(list(watched)):
                watched[cast("int", sentinel)].join(REAP_S)  # for the exit code
            for sentinel in watched:
                os.close(sentinel)
            if not self._closing:
                on_death()

        threading.Thread(target=wait, name="unillm-vllm-death", daemon=True).start()

    def kill(self) -> None:
        """Kill the processes and their children.

        Each leads a process group, see `attach`, which includes its children.
        """
        for child in self._children:
            if child.pid is not None and child.is_alive():
                with suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)

    def obituary(self) -> str:
        """Return the exit codes and the first error of ended processes, as text.

        Called when vLLM reports a death, which may be before the exit code is there, so
        this waits for one.
        """
        until = time.monotonic() + REAP_S
        while not self.ended() and time.monotonic() < until:
            time.sleep(0.01)
        ended = [child for child in self._children if not child.is_alive()]
        says = [f"{child.name} ended with {_exit(child)}" for child in ended]
        if report := self.report():
            says.append(f"{report.kind}: {report.message}")
        return "; ".join(says) or "none of its processes has ended"

    def close(self) -> None:
        """Expect the processes to end, and remove the file."""
        self._closing = True
        self._path.unlink(missing_ok=True)


def _leads_a_group(child: BaseProcess) -> bool:
    """Whether a process has attached; the program's own stay in its group."""
    try:
        return child.pid is not None and os.getpgid(child.pid) == child.pid
    except ProcessLookupError:
        return False


def _exit(child: BaseProcess) -> str:
    code = child.exitcode
    if code is None or code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    also = ", as the kernel does when memory runs out" if name == "SIGKILL" else ""
    return f"{name}{also}"


@contextmanager
def environment(changed: dict[str, str]) -> Iterator[None]:
    """Set variables inside the block."""
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class _ForkHook:
    """An object with the lifetime of this module, for `register_after_fork`."""


_FORK_HOOKS: list[_ForkHook] = []


def _watch_forks() -> None:
    """Attach to forked processes, which do not load plugins again."""
    if not _FORK_HOOKS:
        hook = _ForkHook()
        _FORK_HOOKS.append(hook)
        register_after_fork(hook, lambda _: attach())


# ----------------------------------------------------------------- inside the processes


def attach() -> None:
    """Bind this process to its parent, if an engine of this plugin started it.

    vLLM calls it in each of its processes, as every plugin.
    """
    parent = multiprocessing.parent_process()
    if OWNER_VARIABLE not in os.environ or parent is None or parent.pid is None:
        return
    owner, path = _owner()
    if os.getpid() == owner or _ATTACHED.pid == os.getpid():
        return
    _ATTACHED.pid = os.getpid()
    _watch_forks()
    keep_generators_of_partial_prompts()
    logging.getLogger("vllm").addHandler(_ReportHandler(path))
    if parent.pid == owner:  # its children join its group
        with suppress(OSError):  # a session leader cannot change its group
            os.setpgid(0, 0)
    threading.Thread(
        target=_end_with,
        args=(parent.pid, path),
        name="unillm-vllm-parent",
        daemon=True,
    ).start()


@attrs.define
class _Attached:
    """The attached process; a fork of it is not attached."""

    pid: int | None = None


_ATTACHED = _Attached()


def _owner() -> tuple[int, Path]:
    pid, _, path = os.environ[OWNER_VARIABLE].partition(":")
    return int(pid), Path(path)


def _end_with(parent: int, path: Path) -> None:
    """End this process once its parent is gone."""
    while os.getppid() == parent:
        time.sleep(LOOK_S)
    path.unlink(missing_ok=True)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os._exit(1)


class _ReportHandler(logging.Handler):
    """Writes the exceptions that vLLM logs to the file."""

    def __init__(self, path: Path) -> None:
        super().__init__(logging.ERROR)
        self._path = path

    @override
    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            _write(self._path, Report(type(error).__name__, str(error)))


def _write(path: Path, report: Report) -> None:
    """Append to the file unless it was removed."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
        with os.fdopen(descriptor, "a", encoding="utf-8") as file:
            file.write(json.dumps(attrs.asdict(report)) + "\n")
