# SPDX-License-Identifier: Apache-2.0

"""`Serving`: the generator of a server through loading, death, restart and closing.

The generator is made in a thread, so the server answers `/health` meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING

from ..errors import EngineDeadError
from ..protocol.errors import unavailable

if TYPE_CHECKING:
    from .. import Generator

log = logging.getLogger("unillm.server")

CHECK_INTERVAL_S = 0.5
"""How often the server looks whether the engine lives."""

LONGEST_PAUSE_S = 60.0
"""Longest pause between two attempts to make the engine anew."""


class State(Enum):
    """State of the engine; the value is the reason that `/health` gives."""

    LOADING = "the model is being loaded"
    READY = "ready"
    DEAD = "the engine died"
    STOPPING = "the server is shutting down"


class Serving:
    """Holds the generator.

    Args:
        create: Makes a generator.
        restart: Make a new one when its engine has died.

    Attributes:
        state: The present state; once `State.STOPPING`, it stays so.
        restarts: How often the engine was made anew.
    """

    def __init__(self, create: Callable[[], Generator], *, restart: bool) -> None:
        self._create = create
        self._restart = restart
        self._generator: Generator | None = None
        self.state = State.LOADING
        self.restarts = 0

    async def run(self) -> None:
        """Make the generator and watch it, until the task is cancelled.

        Raises:
            Exception: The first generator could not be made.
        """
        await self.load()
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            if self.state is State.READY and not self.alive():
                log.error("the engine died")
                self._leave(State.LOADING if self._restart else State.DEAD)
                if self._restart:
                    await self._make_anew()

    def alive(self) -> bool:
        """Whether requests can be served now."""
        if self._generator is None or self.state is not State.READY:
            return False
        try:
            self._generator.check_health()
        except EngineDeadError:
            return False
        return True

    def generator(self) -> Generator:
        """Return the generator.

        Raises:
            ApiError: There is none now; the message says why.
        """
        if self._generator is None or self.state is not State.READY:
            raise unavailable(
                f"The server cannot generate: {self.state.value}.",
                code=self.state.name.lower(),
            )
        return self._generator

    def present(self) -> Generator | None:
        """Return the generator if there is one; also while the server stops."""
        return self._generator

    def stop(self) -> None:
        """Accept no further requests; those under way go on."""
        self.state = State.STOPPING

    def close(self) -> None:
        """End all requests and the engine."""
        self.stop()
        if self._generator is not None:
            self._generator.close()

    async def load(self) -> None:
        """Make the generator, in a thread.

        Raises:
            Exception: It could not be made.
        """
        began = time.monotonic()
        generator = await asyncio.to_thread(self._create)
        if self.state is State.STOPPING:
            generator.close()
            return
        self._generator = generator
        self.state = State.READY
        seconds = time.monotonic() - began
        log.info("%s is ready after %.1f s", generator.config.model, seconds)

    async def _make_anew(self) -> None:
        pause = 1.0
        dead, self._generator = self._generator, None
        if dead is not None:
            await asyncio.to_thread(dead.close)
        while self.state is State.LOADING and not await self._loaded():
            log.error("the next attempt to make the engine begins in %g s", pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)
        self.restarts += 1

    async def _loaded(self) -> bool:
        try:
            await self.load()
        except Exception:
            log.exception("the engine could not be made anew")
            return False
        return True

    def _leave(self, state: State) -> None:
        if self.state is not State.STOPPING:
            self.state = state
