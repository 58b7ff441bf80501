# SPDX-License-Identifier: Apache-2.0

"""`ReplicatedEngine`: several engines of one model, each in a process, as one `Engine`.

Requests wait here and enter a replica when it has room, so that priorities hold over
all replicas and a replica that dies holds few. A replica that dies is started again:
its requests without a token go to others, and the others of its requests fail.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from typing import TYPE_CHECKING, Any

import attrs
from typing_extensions import override

from ..engines.base import Engine, EngineLimits, EngineOutput, EngineRequest
from ..errors import EngineDeadError, RequestError
from ..phases import phase
from ..scheduling.queue import WaitingQueue
from .channel import readable
from .engine import ProcessEngine
from .routing import Prefixes, keys_of

if TYPE_CHECKING:
    from .peer import Peer

log = logging.getLogger("unillm.process")

LOOK_S = 0.5
"""How long `step` waits for news before it looks after hangs and restarts."""

MAX_MOVES = 2
"""Deaths that a request without a token survives: it may be the cause of them."""

MAX_STARTS = 3
"""Starts of a replica that may fail one after the other."""

SLACK = 0.25
"""Share of its places by which a replica may be ahead of the others for a prefix."""


@attrs.define(eq=False)
class _Replica:
    number: int
    engine: ProcessEngine | None = None
    """`None` while it starts, and once it is given up."""
    starting: Future[ProcessEngine] | None = None
    loading: Peer | None = None
    """The process of the last start."""
    failures: int = 0
    """Starts that failed, since the last one that did not."""
    restarts: int = 0
    running: dict[str, _Running] = attrs.field(factory=dict)
    news: float = 0.0
    """When it last had news, or nothing to do."""


@attrs.define(eq=False)
class _Running:
    request: EngineRequest
    num_tokens: int = 0


class ReplicatedEngine(Engine):
    """Engines of one model in processes of their own.

    Args:
        start: Starts the engine of a replica, by its number, and passes on the process
            before that loads the model.
        count: Replicas.
        step_timeout_s: Seconds without news after which a replica counts as dead.

    Raises:
        Exception: What the first replica raised that could not be started. The others
            are killed, loaded or not.
    """

    compiles_structures = True

    def __init__(
        self,
        start: Callable[[int, Callable[[Peer], None]], ProcessEngine],
        count: int,
        *,
        step_timeout_s: float,
    ) -> None:
        self._start = start
        self._step_timeout_s = step_timeout_s
        self._waiting = WaitingQueue()
        self._where: dict[str, _Replica] = {}
        self._moves: dict[str, int] = {}
        self._prefixes = Prefixes()
        self._closed = False
        self._replicas = [_Replica(number) for number in range(count)]
        starts = [self._begin_start(replica) for replica in self._replicas]
        try:
            with phase(f"starting {count} replicas"):
                done, _ = wait(starts, return_when=FIRST_EXCEPTION)
            for start_of_one in done:
                start_of_one.result()  # raises before those that still load
            for replica, start_of_one in zip(self._replicas, starts, strict=True):
                replica.engine, replica.starting = start_of_one.result(), None
        except BaseException:
            self.close()
            raise
        first = self._engines()[0]
        self._room = first.limits.max_num_seqs
        self.capabilities = first.capabilities
        self.limits: EngineLimits = attrs.evolve(
            first.limits, max_num_seqs=count * self._room
        )

    @property
    def pids(self) -> list[int]:
        """Ids of the processes that live."""
        return [engine.pid for engine in self._engines()]

    @override
    def add_request(self, request: EngineRequest) -> None:
        self._waiting.push(request)

    @override
    def step(self) -> list[EngineOutput]:
        outputs = self._look_after() + self._bind()
        busy = [each for each in self._replicas if each.engine and each.running]
        for replica in busy:
            outputs += self._guarded(replica, _go_on)
        alive = [each.engine for each in busy if each.engine]
        # One that takes nothing, as it is stopped, holds up no other one.
        sending = [each for each in alive if each.has_unsent()]
        timeout_s = 0.0 if outputs or not self.has_unfinished() else LOOK_S
        ready = set(map(id, readable(alive, timeout_s, sending=sending)))
        for replica in busy:
            if replica.engine is not None and id(replica.engine) in ready:
                outputs += self._guarded(replica, ProcessEngine.take)
        return outputs

    @override
    def abort(self, request_ids: Iterable[str]) -> None:
        for request_id in request_ids:
            self._moves.pop(request_id, None)
            if self._waiting.remove(request_id):
                continue
            replica = self._where.pop(request_id, None)
            if replica is None:
                continue
            replica.running.pop(request_id, None)
            if replica.engine is not None:
                with contextlib.suppress(EngineDeadError):  # the next step finds it
                    replica.engine.abort([request_id])

    @override
    def has_unfinished(self) -> bool:
        return bool(self._waiting or self._where)

    @override
    def stats(self) -> Mapping[str, Any]:
        each = [dict(engine.stats()) for engine in self._engines()]
        names = dict.fromkeys(name for stats in each for name in stats)
        total = {
            name: sum(stats.get(name, 0) for stats in each)
            for name in names
            if all(_is_number(stats.get(name, 0)) for stats in each)
        }
        total["waiting"] = total.get("waiting", 0) + len(self._waiting)
        return {
            **total,
            "replicas": [
                {
                    "alive": replica.engine is not None,
                    "running": len(replica.running),
                    "restarts": replica.restarts,
                }
                for replica in self._replicas
            ],
        }

    @override
    def kill(self) -> None:
        self._closed = True
        for replica in self._replicas:
            self._kill_loading(replica)
        for engine in self._engines():
            engine.kill()

    @override
    def close(self) -> None:
        self._closed = True
        self._where.clear()
        threads = [
            threading.Thread(target=self._close_one, args=(replica,), daemon=True)
            for replica in self._replicas
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    # ------------------------------------------------------------------------- routing

    def _bind(self) -> list[EngineOutput]:
        """Give waiting requests to replicas that have room; return refusals."""
        refused: list[EngineOutput] = []
        while (request := self._waiting.peek()) is not None:
            keys = keys_of(request)
            replica = self._choose(keys)
            if replica is None:
                break
            self._waiting.pop()
            replica.running[request.request_id] = _Running(request)
            self._where[request.request_id] = replica
            self._prefixes.record(keys, replica.number)
            if len(replica.running) == 1:
                replica.news = time.monotonic()
            assert replica.engine is not None
            try:
                replica.engine.add_request(request)
            except RequestError as error:
                self._forget(replica, request.request_id)
                refused.append(_refusal(request, error))
            except EngineDeadError:
                pass  # `step` finds it
        return refused

    def _choose(self, keys: Sequence[int]) -> _Replica | None:
        """Return the replica of a prompt's beginning, or the one with the least to do.

        The first one goes before where it has no more than `SLACK` more to do.
        """
        open_ones = [
            each
            for each in self._replicas
            if each.engine is not None and len(each.running) < self._room
        ]
        if not open_ones:
            return None
        least = min(open_ones, key=lambda each: len(each.running))
        number, _ = self._prefixes.match(keys)
        for each in open_ones:
            ahead = len(each.running) - len(least.running)
            if each.number == number and ahead <= SLACK * self._room:
                return each
        return least

    # -------------------------------------------------------------------------- deaths

    def _guarded(
        self,
        replica: _Replica,
        function: Callable[[ProcessEngine], list[EngineOutput]],
    ) -> list[EngineOutput]:
        """Call a replica's engine; its death ends what it had begun."""
        engine = replica.engine
        assert engine is not None
        before = engine.num_steps
        try:
            outputs = function(engine)
        except Exception as error:  # noqa: BLE001 - an engine may raise anything
            return self._bury(replica, error)
        if engine.num_steps > before:
            replica.news = time.monotonic()
        for output in outputs:
            running = replica.running.get(output.request_id)
            if running is None:
                continue
            running.num_tokens += len(output.token_ids)
            if output.finish_reason is not None:
                self._forget(replica, output.request_id)
        return outputs

    def _bury(self, replica: _Replica, error: Exception) -> list[EngineOutput]:
        """Move the requests of a dead replica that have no token; end the others."""
        log.error("replica %d died and is started again: %s", replica.number, error)
        lost = list(replica.running.values())
        engine, replica.engine = replica.engine, None
        self._prefixes.forget(replica.number)
        outputs = []
        for each in lost:
            name = each.request.request_id
            moves = self._moves.get(name, 0) + 1
            if each.num_tokens == 0 and moves <= MAX_MOVES:
                self._where.pop(name, None)
                replica.running.pop(name)
                self._moves[name] = moves
                self._waiting.push(each.request)
                continue
            self._forget(replica, name)
            reason = f"its replica died after {each.num_tokens} new tokens: {error}"
            outputs.append(
                EngineOutput(request_id=name, finish_reason="error", error=reason)
            )
        self._begin_start(replica, after=engine)
        return outputs

    def _forget(self, replica: _Replica, request_id: str) -> None:
        replica.running.pop(request_id, None)
        self._where.pop(request_id, None)
        self._moves.pop(request_id, None)

    def _look_after(self) -> list[EngineOutput]:
        """Take in replicas that have started, and bury those that hang.

        Raises:
            Exception: What the last replica raised that could not be started.
        """
        outputs = []
        now = time.monotonic()
        for replica in self._replicas:
            if replica.starting is not None and replica.starting.done():
                self._end_start(replica)
            elif replica.engine is not None and replica.running:
                silent_s = now - replica.news
                if silent_s > self._step_timeout_s:
                    replica.engine.kill()
                    error = EngineDeadError(
                        f"it has not answered for {self._step_timeout_s:g} s"
                    )
                    outputs += self._bury(replica, error)
        return outputs

    def _begin_start(
        self, replica: _Replica, *, after: ProcessEngine | None = None
    ) -> Future[ProcessEngine]:
        """Start a replica on a thread of its own.

        Args:
            replica: The one to start.
            after: The dead engine whose memory it needs.
        """
        replica.starting = started = Future[ProcessEngine]()
        replica.loading = None

        def begun(peer: Peer) -> None:
            replica.loading = peer
            if self._closed:
                peer.kill()

        def start() -> None:
            try:
                if after is not None:
                    after.kill()
                    after.close()
                engine = self._start(replica.number, begun)
            except BaseException as error:  # noqa: BLE001 - `_end_start` raises it
                started.set_exception(error)
                return
            started.set_result(engine)
            if self._closed:
                engine.close()

        threading.Thread(
            target=start, name=f"unillm-replica-{replica.number}", daemon=True
        ).start()
        return started

    def _end_start(self, replica: _Replica) -> None:
        assert replica.starting is not None
        error = replica.starting.exception()
        if error is None:
            replica.engine = replica.starting.result()
            replica.starting, replica.failures = None, 0
            replica.restarts += 1
            log.info("replica %d runs again", replica.number)
            return
        replica.starting = None
        replica.failures += 1
        log.error("replica %d cannot be started: %s", replica.number, error)
        if replica.failures < MAX_STARTS:
            self._begin_start(replica)
        elif not any(each.engine or each.starting for each in self._replicas):
            raise error

    def _engines(self) -> list[ProcessEngine]:
        # Read once: `stats` and `kill` are called on other threads than `step`.
        found = [each.engine for each in self._replicas]
        return [engine for engine in found if engine is not None]

    def _kill_loading(self, replica: _Replica) -> None:
        if replica.starting is not None and replica.loading is not None:
            replica.loading.kill()

    def _close_one(self, replica: _Replica) -> None:
        self._kill_loading(replica)
        starting = replica.starting  # one that is not done closes itself
        if starting is not None and starting.done() and starting.exception() is None:
            starting.result().close()
        if replica.engine is not None:
            replica.engine.close()


def _go_on(engine: ProcessEngine) -> list[EngineOutput]:
    engine.go_on()
    return []


def _refusal(request: EngineRequest, error: RequestError) -> EngineOutput:
    return EngineOutput(
        request_id=request.request_id,
        finish_reason="error",
        error=str(error),
        refusal=error,
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
