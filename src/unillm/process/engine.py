# SPDX-License-Identifier: Apache-2.0

"""`ProcessEngine`: an engine in another process, as an `Engine` like any.

Requests are kept until the next `step`, so that the engine gets those of one turn
together, as in one process. From then on it steps by itself, at most `WINDOW` steps
ahead of this program.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Raw
from typing_extensions import override

from ..engines.base import Engine, EngineOutput, EngineRequest
from ..errors import InvalidParameterError
from .channel import MAX_FRAME
from .messages import Load, News, Turn
from .values import (
    as_capabilities,
    as_engine_output,
    as_limits,
    encode_config,
    encode_request,
)

if TYPE_CHECKING:
    from ..config import EngineConfig
    from .peer import Peer

WINDOW = 4
"""Steps that the engine may be ahead, so that it computes while outputs become text."""

STATS_TIMEOUT_S = 1.0
"""How long `stats` waits for the other process before it returns the last ones."""

LOAD_SILENCE_S = 60.0
"""How long a process may show no sign of life while it loads, at least: imports of
large libraries hold Python's lock for seconds, and machines are busy."""

CLOSE_TIMEOUT_S = 40.0
"""How long `close` waits; the driver kills the engine sooner. vLLM has 30 s."""

_LONGEST_TURN = MAX_FRAME // 4


class ProcessEngine(Engine):
    """A loaded engine in a process.

    Args:
        peer: A process that has said `Hello`; closed by `close`.
        backend: Name of the backend there.
        config: Options of the engine.
        cores: Cores of the process; `None` for all.

    Raises:
        UnillmError: As `Backend.create_engine` does there.
        EngineDeadError: The process ended or hung while it loaded.
    """

    compiles_structures = True

    def __init__(
        self,
        peer: Peer,
        backend: str,
        config: EngineConfig,
        *,
        cores: Iterable[int] | None = None,
    ) -> None:
        self._peer = peer
        self._live: dict[str, int] = {}
        """Unfinished requests: id to the number of the `Turn` that has it."""
        self._turn = 1
        self._granted = 0
        self._received = 0
        self._requests: list[Raw] = []
        self._num_bytes = 0
        self._stats: dict[str, Any] = {}
        self._asking = threading.Lock()
        self._closed = False
        level = logging.getLogger("unillm").getEffectiveLevel()
        try:
            load = Load(
                backend=backend,
                config=encode_config(config),
                cores=None if cores is None else sorted(cores),
                log_level=level,
            )
            silence_s = max(config.step_timeout_s, LOAD_SILENCE_S)
            ready = peer.load(load, silence_s=silence_s)
            self.limits = as_limits(ready)
            self.capabilities = as_capabilities(ready.capabilities)
        except BaseException:
            peer.kill()
            peer.close()
            raise

    @property
    def pid(self) -> int:
        """Id of the process."""
        return self._peer.pid

    @property
    def num_steps(self) -> int:
        """Steps that the engine has done, as far as this program knows."""
        return self._received

    @override
    def add_request(self, request: EngineRequest) -> None:
        encoded = encode_request(request)
        size = len(memoryview(encoded))
        if size > _LONGEST_TURN:
            raise InvalidParameterError(
                f"The request takes {size} bytes, and an engine in another process "
                f"takes requests of at most {_LONGEST_TURN}.",
                parameter="prompt",
            )
        if self._num_bytes + size > _LONGEST_TURN:
            self._send_turn()
        self._live[request.request_id] = self._turn
        self._requests.append(encoded)
        self._num_bytes += size

    @override
    def step(self) -> list[EngineOutput]:
        if not self._live:
            return []
        self.go_on()
        return self._outputs(self._peer.receive()) + self._pending_outputs()

    def go_on(self) -> None:
        """Let the engine have the requests so far and compute, without waiting."""
        if self._requests or self._received + WINDOW // 2 >= self._granted:
            self._send_turn()
        else:
            self._peer.flush()

    def has_unsent(self) -> bool:
        """Whether the process has not taken all that it was sent."""
        return self._peer.has_unsent()

    def take(self) -> list[EngineOutput]:
        """Return the outputs that are there, without waiting; raises as `step`."""
        outputs = self._pending_outputs()
        if not outputs and self._peer.is_over:
            outputs = self._outputs(self._peer.receive())
        return outputs

    def fileno(self) -> int:
        """Return a descriptor that is readable when `take` has something."""
        return self._peer.fileno()

    def _pending_outputs(self) -> list[EngineOutput]:
        outputs = []
        while self._peer.poll():
            outputs += self._outputs(self._peer.receive())
        return outputs

    @override
    def abort(self, request_ids: Iterable[str]) -> None:
        ids = [each for each in request_ids if self._live.pop(each, None) is not None]
        if ids:
            self._send_turn(ids)

    @override
    def has_unfinished(self) -> bool:
        return bool(self._live)

    @override
    def stats(self) -> Mapping[str, Any]:
        with self._asking:
            self._stats = self._peer.stats(STATS_TIMEOUT_S) or self._stats
        return self._stats

    @override
    def death(self) -> Exception | None:
        return self._peer.death()

    @override
    def kill(self) -> None:
        self._peer.kill()

    @override
    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._live.clear()
        try:
            self._peer.end(CLOSE_TIMEOUT_S)
        finally:
            self._peer.close()

    def _send_turn(self, aborts: list[str] | None = None) -> None:
        """Send what the engine gets before its next step."""
        requests, self._requests, self._num_bytes = self._requests, [], 0
        self._granted = self._received + WINDOW
        self._peer.send(Turn(self._turn, self._granted, aborts or [], requests))
        self._turn += 1

    def _outputs(self, message: News) -> list[EngineOutput]:
        """Return the outputs of requests that have not ended or been aborted."""
        self._received = message.steps
        outputs = []
        for each in message.outputs:
            # An id may be used again: outputs of before do not count.
            turn = self._live.get(each.request_id)
            if turn is None or message.turn < turn:
                continue
            if each.finish_reason is not None:
                del self._live[each.request_id]
            outputs.append(as_engine_output(each))
        return outputs
