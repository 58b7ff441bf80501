# SPDX-License-Identifier: Apache-2.0

"""`Peer`: the program's end of a conversation with a process that hosts a backend."""

from __future__ import annotations

import contextlib
import logging
import queue
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any, TypeVar

from msgspec.structs import astuple

from ..distributions import VERSION, install
from ..errors import BackendUnavailableError, EngineDeadError
from ..phases import Listener, PhaseStatus, current_listener
from .channel import Channel, ProtocolError, pair
from .child import Child
from .failures import as_exception
from .messages import (
    PROTOCOL,
    AskStats,
    Beat,
    Bye,
    Close,
    Failure,
    Hello,
    Load,
    Log,
    News,
    Phase,
    Ready,
    Stats,
)

ANY = "any"
"""In place of a backend's name: an interpreter is asked about all its backends."""

HELLO_TIMEOUT_S = 60.0
"""How long an interpreter may take to import unillm's core."""

_EXIT_S = 2.0
"""How long a process may take to end after it has said `Bye`."""

_REAP_S = 2.0
"""How long the exit status of a process may take whose socket is closed."""

T = TypeVar("T")


class Peer:
    """A process of an interpreter with unillm.

    Args:
        python: Path of the interpreter.
        backend: Name of the backend, for messages.
        environment: Variables of the process besides those of this one.

    Raises:
        BackendUnavailableError: The interpreter cannot be run, has no unillm, or one
            of another version; or this system has no Unix sockets.
    """

    def __init__(
        self,
        python: str,
        backend: str,
        *,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._python = python
        self._backend = backend
        if not hasattr(socket, "AF_UNIX"):
            raise BackendUnavailableError(
                f"The backend {backend!r} of {python} is reached over Unix sockets, "
                "which this system lacks. Create the Generator without python= and "
                "data_parallel_size, in the environment of the backend.",
                name=backend,
            )
        work, work_there = pair()
        control, control_there = pair()
        self._work = Channel.to_host(work)
        self._control = Channel.to_host(control)
        self._stats: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._is_asked = False
        self._sign = time.monotonic()
        self._is_over = False
        self._closing = False
        self._listener: Listener | None = None
        try:
            self._child = Child(
                python,
                "unillm.process",
                (work_there, control_there),
                environment=environment,
                on_end=self._shut_down,
            )
        except (OSError, ValueError) as error:
            self._close_channels()
            why = getattr(error, "strerror", None) or error
            raise self._unavailable(
                f"{python} cannot be run: {why}. python= takes the "
                "path of a Python interpreter, or of its environment"
            ) from error
        threading.Thread(
            target=self._listen, name="unillm-process-control", daemon=True
        ).start()
        try:
            self._greet()
        except BaseException:
            self.kill()
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Id of the process."""
        return self._child.pid

    def ask(self, question: Any, kind: type[T], timeout_s: float | None = None) -> T:
        """Send a question and return the answer.

        Raises:
            UnillmError: What the other side raised.
            EngineDeadError: The process ended, or sent something else.
        """
        self.send(question)
        return self._expect(kind, timeout_s)

    def load(self, load: Load, *, silence_s: float) -> Ready:
        """Let the process load an engine, and wait as long as it gives a sign of life.

        Args:
            load: The question.
            silence_s: Seconds without a sign after which it counts as dead.
        """
        self._listener = current_listener()
        self.send(load)
        self._sign = time.monotonic()
        while True:
            left = silence_s - (time.monotonic() - self._sign)
            if left <= 0:
                self.kill()
                raise EngineDeadError(
                    f"The process {self._python} (id {self.pid}) has given no sign of "
                    f"life for {silence_s:g} s while it loaded the model. If it only "
                    "is slow on this machine, raise step_timeout_s."
                )
            with contextlib.suppress(TimeoutError):
                return self._expect(Ready, min(left, 10.0))

    def send(self, message: Any) -> None:
        """Send a message without waiting; `receive` and `flush` send the rest of it.

        Raises:
            EngineDeadError: The process has ended.
        """
        try:
            self._work.post(message)
        except OSError:
            raise self._dead() from None

    def flush(self) -> None:
        """Send as much of what was sent before as the process takes now.

        Raises:
            EngineDeadError: The process has ended.
        """
        try:
            self._work.flush()
        except OSError:
            raise self._dead() from None

    def has_unsent(self) -> bool:
        """Whether the process has not taken all that was sent."""
        return self._work.has_unsent()

    def receive(self) -> News:
        """Wait for the next news of the engine.

        Raises:
            EngineDeadError: The process has ended, or sent something else.
            Exception: What the engine raised.
        """
        return self._expect(News, None)

    def poll(self) -> bool:
        """Return whether news are there, without waiting."""
        try:
            return self._work.poll() and isinstance(self._work.next(), News)
        except (EOFError, ProtocolError):
            self._is_over = True
            return False  # the next `receive` raises it

    @property
    def is_over(self) -> bool:
        """Whether the next `receive` will raise, as far as `poll` has seen."""
        return self._is_over or self._work.next() is not None

    def fileno(self) -> int:
        """Return the descriptor that is readable when there is something to poll."""
        return self._work.fileno()

    def stats(self, timeout_s: float) -> dict[str, Any]:
        """Return the statistics of the engine; empty if there is no answer in time."""
        if self._child.wait(0.0):
            return {}
        with contextlib.suppress(queue.Empty):
            self._stats.get_nowait()  # an answer that came too late
            self._is_asked = False
        try:
            if not self._is_asked:  # a stopped process would not read many
                self._control.send(AskStats())
                self._is_asked = True
            found = self._stats.get(timeout=timeout_s)
        except (OSError, queue.Empty):
            return {}
        self._is_asked = False
        return found

    def death(self) -> EngineDeadError | None:
        """Return why the process has ended, if it has, without waiting for it."""
        if self._closing or not self._child.wait(0.0):
            return None
        return EngineDeadError(self._child.obituary())

    def kill(self) -> None:
        """Kill the process and its children, from any thread."""
        self._child.kill()
        self._shut_down()

    def end(self, timeout_s: float) -> None:
        """Let the engine close, and wait until the process has ended.

        Args:
            timeout_s: Seconds after which it is killed.
        """
        self._closing = True
        until = time.monotonic() + timeout_s
        with contextlib.suppress(OSError, EOFError, ProtocolError, TimeoutError):
            self._work.post(Close())
            while not isinstance(
                self._work.receive(until - time.monotonic()), (Bye, Failure)
            ):
                pass  # outputs of its last steps
        self._child.end(_EXIT_S)

    def close(self) -> None:
        """Close this side's sockets; the process ends with them."""
        self._closing = True
        self._shut_down()
        self._child.end(_EXIT_S)
        self._close_channels()

    # --------------------------------------------------------------------------- errors

    def _greet(self) -> None:
        try:
            hello = self._work.receive(HELLO_TIMEOUT_S)
        except EOFError:
            self._child.wait(_REAP_S)
            missing = self._child.printed("No module named")
            remedy = install(python=self._python) if missing else None
            raise self._unavailable(
                f"{self._child.obituary()}", remedy=remedy
            ) from None
        except (ProtocolError, TimeoutError) as error:
            raise self._unavailable(
                f"the process {self._python} does not speak unillm's protocol: {error}"
            ) from error
        if not isinstance(hello, Hello):
            raise self._unavailable(
                f"the process {self._python} began with {type(hello).__name__} instead "
                "of Hello"
            )
        if hello.protocol != PROTOCOL:
            raise self._unavailable(
                f"{self._python} has unillm {hello.unillm} (protocol {hello.protocol}),"
                f" and this program has unillm {VERSION} (protocol {PROTOCOL})",
                remedy=install(python=self._python),
            )

    def _unavailable(
        self, reason: str, *, remedy: str | None = None
    ) -> BackendUnavailableError:
        advice = f" Run: {remedy}" if remedy else ""
        what = f"The backend {self._backend!r} cannot"
        if self._backend == ANY:
            what = "No backend can"
        return BackendUnavailableError(
            f"{what} run in {self._python}: {reason}.{advice}",
            name=self._backend,
            remedy=remedy,
        )

    def _expect(self, kind: type[T], timeout_s: float | None) -> T:
        try:
            message = self._work.receive(timeout_s)
        except EOFError:
            raise self._dead() from None
        except ProtocolError as error:
            self.kill()
            raise EngineDeadError(
                f"The process {self._python} (id {self.pid}) broke the protocol: "
                f"{error}."
            ) from error
        if isinstance(message, Failure):
            raise as_exception(message)
        if not isinstance(message, kind):
            self.kill()
            raise EngineDeadError(
                f"The process {self._python} (id {self.pid}) broke the protocol: it "
                f"sent {type(message).__name__} in place of {kind.__name__}."
            )
        return message

    def _dead(self) -> EngineDeadError:
        if not self._child.wait(_REAP_S):  # its socket is closed, but it lives
            self._child.kill()
            self._child.wait(_REAP_S)
        return EngineDeadError(self._child.obituary())

    # -------------------------------------------------------------------------- control

    def _listen(self) -> None:
        """Read the second socket: log lines, signs of life, statistics."""
        with contextlib.suppress(EOFError, OSError, ValueError):  # closed
            while True:
                try:
                    message = self._control.receive()
                except ProtocolError:
                    break
                self._sign = time.monotonic()
                if isinstance(message, Log):
                    logging.getLogger(message.logger).log(message.level, message.text)
                elif isinstance(message, Phase):
                    self._hear(message)
                elif isinstance(message, Stats):
                    self._stats.put(message.values)
                elif not isinstance(message, Beat):
                    break
            self.kill()  # it broke the protocol

    def _hear(self, message: Phase) -> None:
        if self._listener is not None:
            name, text, fraction, total_bytes, is_over = astuple(message)
            self._listener(
                PhaseStatus(
                    name=name,
                    message=text,
                    fraction=fraction,
                    total_bytes=total_bytes,
                    is_over=is_over,
                )
            )

    def _shut_down(self) -> None:
        self._work.shut_down()
        self._control.shut_down()

    def _close_channels(self) -> None:
        self._work.close()
        self._control.close()
