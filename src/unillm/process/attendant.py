# SPDX-License-Identifier: Apache-2.0

"""`Attendant`: the thread of an engine's process that never waits for the engine."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import attrs
from typing_extensions import override

from ..phases import PhaseStatus
from .channel import Channel, ProtocolError, readable
from .child import kill_session
from .messages import AskStats, Beat, Log, Phase, Stats, ToHost

if TYPE_CHECKING:
    from ..engines.base import Engine

LOOK_S = 1.0
"""How often it looks whether the parent process is the same, and says while the engine
loads that the process lives."""


class Attendant:
    """Answers on the second socket, and ends the process when the program is gone.

    Args:
        channel: The second socket.

    Attributes:
        engine: The loaded engine, for its statistics.
    """

    engine: Engine | None = None

    def __init__(self, channel: Channel[ToHost]) -> None:
        self._channel = channel
        self._sending = threading.Lock()
        self._parent = os.getppid()
        # Not the session of a person's shell.
        self._session = os.getsid(0)
        self._owns_session = self._session != os.getsid(self._parent)
        self._loading = False

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(
            target=self._run, name="unillm-process-attendant", daemon=True
        ).start()

    def send(self, message: Any) -> None:
        """Send a message on the second socket, from any thread."""
        with self._sending, contextlib.suppress(OSError):  # the program is gone
            self._channel.send(message)

    def pass_on(self, status: PhaseStatus) -> None:
        """Send the status of a phase."""
        self.send(Phase(*attrs.astuple(status)))

    @contextlib.contextmanager
    def beating(self) -> Iterator[None]:
        """Send `Beat` messages inside the block."""
        self._loading = True
        try:
            yield
        finally:
            self._loading = False

    def _run(self) -> None:
        with contextlib.suppress(EOFError, ProtocolError, OSError):
            while os.getppid() == self._parent:
                if not readable([self._channel], LOOK_S):
                    if self._loading:
                        self.send(Beat())
                    continue
                while self._channel.poll():
                    message = self._channel.receive()
                    if isinstance(message, AskStats):
                        self._send_stats()
        self.end()

    def _send_stats(self) -> None:
        engine = self.engine
        try:
            self.send(Stats({} if engine is None else dict(engine.stats())))
        except Exception as error:  # noqa: BLE001 - it ends, or they are not plain data
            self.send(Stats({"error": f"{type(error).__name__}: {error}"}))

    def end(self) -> None:
        """End this process and its session: the program is gone."""
        if self._owns_session:
            kill_session(self._session)
        os._exit(1)


class LogSender(logging.Handler):
    """Sends unillm's log to the program."""

    def __init__(self, attendant: Attendant) -> None:
        super().__init__()
        self._attendant = attendant

    @override
    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        self._attendant.send(Log(record.name, record.levelno, text))
