# SPDX-License-Identifier: Apache-2.0

"""`Driver`: one thread that makes an engine, feeds it and delivers its outputs.

Callers' threads only put requests into the inbox. The driver knows the `Engine`
contract and treats slots, runs and continuous engines alike.

Invariants: every accepted request ends exactly once; a cancelled request is aborted in
the engine before its next step; if the engine dies, hangs or is closed, every waiting
call raises. The waiting requests, those without a token yet, are bounded in number and
in prompt tokens, on any engine.
"""

from __future__ import annotations

import atexit
import contextvars
import heapq
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from ..errors import (
    EngineDeadError,
    EngineOutOfMemoryError,
    GeneratorClosedError,
    PluginError,
    QueueFullError,
    RequestError,
)
from ..outputs import RequestOutput
from .completion import Completion
from .cores import watched_cores
from .failures import CLOSED, failed_with, failure, named, timed_out
from .handle import RequestHandle
from .owner import Owner

if TYPE_CHECKING:
    from ..engines.base import Engine, EngineOutput

log = logging.getLogger("unillm.driver")

CLOSE_TIMEOUT_S = 8.0
"""How long `Driver.close` waits for an engine before it kills it."""

KILL_TIMEOUT_S = 2.0
"""How long `Driver.close` waits for a killed engine."""

WATCH_INTERVAL_S = 1.0
"""How often the watchdog looks; more often where `step_timeout_s` is short."""


class Driver:
    """Runs an engine on a thread of its own.

    The engine is made on that thread too. Each thread that computes with OpenMP keeps a
    team of workers, and GNU's library lets all teams sleep between two parallel regions
    as soon as there are more workers than cores: a step took twice as long in an engine
    that was loaded on one thread and stepped on another.

    Args:
        create_engine: Makes the engine, which the driver closes; its errors pass on.
        max_queued_requests: Requests that may wait for their first token.
        max_queued_tokens: Prompt tokens of those requests together.
        step_timeout_s: Seconds after which an engine that has not answered counts as
            dead; infinity waits for ever.
        clock: Monotonic seconds, for deadlines and timeouts.
        threaded: Run the loop on a thread, and a watchdog on another one. Otherwise the
            caller calls `turn` and `check_hang` in their place.
    """

    engine: Engine
    """Only the driver's thread calls it, but for `stats`, `death` and `kill`."""

    owner: Owner
    """The process with the driver's thread. In a forked child, `close` and `abandon` do
    nothing, and no other method may be called."""

    def __init__(
        self,
        create_engine: Callable[[], Engine],
        *,
        max_queued_requests: int,
        max_queued_tokens: int,
        step_timeout_s: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
        threaded: bool = True,
    ) -> None:
        self._max_queued_requests = max_queued_requests
        self._max_queued_tokens = max_queued_tokens
        self._step_timeout_s = step_timeout_s
        self._clock = clock
        # Reentrant: the collector may end a forgotten request or generator anywhere.
        self._changed = threading.Condition(threading.RLock())
        # `_changed` guards these.
        self._inbox: deque[RequestHandle] = deque()
        self._cancelled: deque[RequestHandle] = deque()
        self._num_queued = 0
        self._queued_tokens = 0
        self._closing = False
        self._dead: EngineDeadError | None = None
        self._counts = dict.fromkeys(("accepted", "finished", "failed", "cancelled"), 0)
        # The loop alone uses these; `_end_all` takes them from a loop that hangs.
        self._arrived: deque[RequestHandle] = deque()  # not yet in the engine
        self._live: dict[str, tuple[RequestHandle, Completion]] = {}
        self._deadlines: list[tuple[float, str, RequestHandle]] = []
        self._busy_since: float | None = None
        self.owner = Owner()
        self._over = threading.Event()

        made: Future[Engine] = Future()
        self._thread = threading.Thread(
            # The caller's context covers what is logged while the engine is made.
            target=contextvars.copy_context().run,
            args=(self._run, create_engine, made),
            name="unillm-driver",
            daemon=True,
        )
        if not threaded:
            self.engine = create_engine()
        # A thread inside an engine must not outlive Python.
        atexit.register(self.close)
        if threaded:
            self._thread.start()
            try:
                made.result()
            except BaseException:  # an interrupted caller leaves no engine behind
                self.abandon()
                raise
            if step_timeout_s < math.inf:
                threading.Thread(
                    target=self._watch, name="unillm-watchdog", daemon=True
                ).start()

    # ----------------------------------------------------------- from callers' threads

    def submit(self, handle: RequestHandle, *, block: bool) -> None:
        """Accept a request.

        Args:
            handle: A new request.
            block: Wait while the queue is full instead of refusing.

        Raises:
            QueueFullError: The queue is full and *block* is false.
            EngineDeadError: The engine died.
            GeneratorClosedError: The driver was closed.
        """
        tokens = len(handle.prompt_token_ids) * len(handle.completions)
        with self._changed:
            while not self._accepts(tokens):
                if not block:
                    raise QueueFullError(
                        f"The queue is full: {self._num_queued} requests with "
                        f"{self._queued_tokens} prompt tokens wait, this one has "
                        f"{tokens}; the limits are {self._max_queued_requests} "
                        f"requests and {self._max_queued_tokens} tokens. Submit again "
                        "when some have started, or raise max_queued_requests or "
                        "max_queued_tokens."
                    )
                self._changed.wait()
            if not handle.accept(self.cancel):
                return  # cancelled already
            handle.queued_tokens = tokens
            self._num_queued += 1
            self._queued_tokens += tokens
            self._inbox.append(handle)
            self._counts["accepted"] += 1
            self._changed.notify_all()

    def cancel(self, handle: RequestHandle) -> None:
        """Take a request, which its caller has ended, out of the engine."""
        with self._changed:
            self._cancelled.append(handle)
            self._leave_queue(handle)
            self._changed.notify_all()

    def stats(self) -> dict[str, Any]:
        """Return the counters of the requests and of the engine."""
        engine = dict(self.engine.stats())  # another process may take its time
        with self._changed:
            return {
                **self._counts,
                "queued": self._num_queued,
                "queued_tokens": self._queued_tokens,
                "live": len(self._live),
                "deadlines": len(self._deadlines),
                "engine": engine,
            }

    def check_health(self) -> None:
        """Raise `EngineDeadError` if the engine died, with or without requests."""
        alive = self._dead is None and not self._closing
        if alive and (error := self.engine.death()):
            self._die(failed_with(error), error)
        if self._dead is not None:
            raise EngineDeadError(str(self._dead)) from self._dead.__cause__

    def abandon(self) -> None:
        """Let the thread end all requests and the engine, without waiting for it."""
        if not self.owner.is_here():
            return
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def close(self) -> None:
        """End all requests and the engine. Closing twice does nothing."""
        if not self.owner.is_here():
            return
        self.abandon()
        if self._thread.ident is None:  # not threaded: the caller calls `turn`
            while self.turn(block=False):
                pass
            return
        if self._thread is threading.current_thread():  # collected in its own thread
            return
        self._thread.join(CLOSE_TIMEOUT_S)
        if not self._thread.is_alive():
            return
        self._end_all(GeneratorClosedError, CLOSED)
        self._kill_engine()
        self._thread.join(KILL_TIMEOUT_S)
        if self._thread.is_alive():
            log.warning(
                "the engine has not answered for %g s while closing; it runs until the "
                "process ends",
                CLOSE_TIMEOUT_S + KILL_TIMEOUT_S,
            )

    def _accepts(self, tokens: int) -> bool:
        """Whether the queue has room; raises once the engine is dead or closing."""
        self.check_health()
        if self._closing:
            raise GeneratorClosedError(CLOSED)
        # An empty queue takes any request, however long.
        return not self._num_queued or (
            self._num_queued < self._max_queued_requests
            and self._queued_tokens + tokens <= self._max_queued_tokens
        )

    # ---------------------------------------------------------- on the driver's thread

    def _run(self, create_engine: Callable[[], Engine], made: Future[Engine]) -> None:
        try:
            self.engine = create_engine()
        except BaseException as error:  # noqa: BLE001 - the caller raises it
            self._forget()
            made.set_exception(error)
            return
        made.set_result(self.engine)
        with watched_cores() as look:
            while self.turn():
                look()

    def turn(self, *, block: bool = True) -> bool:
        """Hand the inbox to the engine, step it and deliver its outputs, once.

        Args:
            block: Wait for a request if there is nothing to do.

        Returns:
            Whether to go on. Once false, the engine is closed and every request ended.
        """
        if self._over.is_set():
            return False
        try:
            if self._take_inbox(block=block):
                self._expire()
                outputs = self._step() if self._live else ()
                if self._dead is None:  # else it hung, and its requests have ended
                    self._deliver(outputs)
                    if not self._live:
                        self._deadlines.clear()
                        self._live.clear()  # an empty dict keeps its largest size
                    self._busy_since = None
                    return True
            else:
                self._end_all(GeneratorClosedError, CLOSED)
        except BaseException as error:  # noqa: BLE001 - every waiting call raises it
            self._die(failed_with(error), error)
        self._busy_since = None
        self._close_engine()
        return False

    def _take_inbox(self, *, block: bool) -> bool:
        """Hand new and cancelled requests to the engine; return false to end."""
        with self._changed:
            while block and not (
                self._inbox or self._cancelled or self._closing or self._live
            ):
                self._changed.wait()
            if self._closing:
                return False
            self._arrived, self._inbox = self._inbox, deque()
            cancelled, self._cancelled = self._cancelled, deque()
        self._busy_since = self._clock()
        while self._arrived:
            self._add(self._arrived[0])
            self._arrived.popleft()
        for handle in cancelled:
            self._abort(handle)
            self._counts["cancelled"] += 1
        return True

    def _step(self) -> list[EngineOutput]:
        if not self.engine.has_unfinished():
            raise PluginError(
                f"the engine has nothing left to do, but {len(self._live)} requests "
                "have not ended"
            )
        return self.engine.step()

    def _add(self, handle: RequestHandle) -> None:
        if handle.done():
            return  # cancelled before it reached the engine
        for completion in handle.completions:
            request = completion.request
            try:
                self.engine.add_request(request)
            except RequestError as error:
                self._fail(handle, error)
                return
            self._live[request.request_id] = (handle, completion)
        if handle.deadline is not None:
            if len(self._deadlines) > 2 * len(self._live) + 8:  # most have ended
                self._deadlines = [e for e in self._deadlines if not e[2].done()]
                heapq.heapify(self._deadlines)
            entry = (handle.deadline, handle.request_id, handle)
            heapq.heappush(self._deadlines, entry)

    def _abort(self, handle: RequestHandle) -> None:
        ids = [completion.request.request_id for completion in handle.completions]
        live = [request_id for request_id in ids if self._live.pop(request_id, None)]
        if live:
            self.engine.abort(live)

    def _expire(self) -> None:
        """End the requests whose deadline has passed."""
        while self._deadlines and self._deadlines[0][0] <= self._clock():
            _, _, handle = heapq.heappop(self._deadlines)
            if handle.end(timed_out):
                self._abort(handle)
                self._leave_queue(handle)
                self._counts["cancelled"] += 1

    def _deliver(self, outputs: Iterable[EngineOutput]) -> None:
        """Hand the outputs of a step to their requests."""
        now = time.monotonic()
        for output in outputs:
            entry = self._live.get(output.request_id)
            if entry is None:
                continue  # ended or aborted earlier in this step
            handle, completion = entry
            if output.finish_reason == "error":
                self._fail(handle, output.refusal or failure(handle, output.error))
                continue
            try:
                if not handle.update(completion, output, now):
                    continue  # cancelled meanwhile: the next turn aborts it
            except Exception as error:  # noqa: BLE001 - a caller's tokenizer may raise
                reason = f"its tokens could not be turned into text: {named(error)}"
                self._fail(handle, failure(handle, reason, error))
                continue
            if completion.finish_reason is not None:
                self._retire(handle, output)
            if handle.queued_tokens:
                self._leave_queue(handle)  # at its first token

    def _retire(self, handle: RequestHandle, output: EngineOutput) -> None:
        """Take a completion that has ended out of the live ones."""
        self._live.pop(output.request_id, None)
        if output.finish_reason is None:  # a stop string, which engines do not see
            self.engine.abort([output.request_id])
        if handle.finished():
            self._counts["finished"] += 1

    # ------------------------------------------------------------------------ endings

    def _fail(self, handle: RequestHandle, error: Exception) -> None:
        """End one request with an error; its other completions are aborted."""
        handle.end(lambda _: error)
        self._abort(handle)
        self._leave_queue(handle)
        self._counts["failed"] += 1

    def _leave_queue(self, handle: RequestHandle) -> None:
        """Stop counting a request as waiting."""
        with self._changed:
            self._num_queued -= bool(handle.queued_tokens)
            self._queued_tokens -= handle.queued_tokens
            handle.queued_tokens = 0
            self._changed.notify_all()

    def _watch(self) -> None:
        while not self._over.wait(min(WATCH_INTERVAL_S, self._step_timeout_s / 4)):
            self.check_hang()

    def check_hang(self) -> None:
        """Declare an engine dead that has been busy for too long; end its requests.

        If the loop comes back later, it drops the outputs.
        """
        since = self._busy_since
        if since is None or self._clock() - since <= self._step_timeout_s:
            return
        if self._die(
            f"The engine has not answered for {self._step_timeout_s:g} s, so it counts "
            "as dead. All its requests are lost; create a new Generator. If a step may "
            "take longer on this machine, raise step_timeout_s.",
            TimeoutError(f"no answer within {self._step_timeout_s:g} s"),
        ):
            self._kill_engine()

    def _die(self, message: str, cause: BaseException) -> bool:
        """End all requests with an error; false if the engine was dead already."""
        with self._changed:
            if self._dead is not None:
                return False
            self._dead = EngineDeadError(message)
            self._dead.__cause__ = cause
        log.error("%s", message, exc_info=cause)
        # Callers can see by the class that smaller limits would help.
        memory = isinstance(cause, EngineOutOfMemoryError)
        kind = EngineOutOfMemoryError if memory else EngineDeadError
        self._end_all(kind, message, cause)
        return True

    def _end_all(
        self, kind: type[Exception], message: str, cause: BaseException | None = None
    ) -> None:
        """End every request, in the engine or still in the inbox, with an error."""

        def make_error(_: RequestOutput) -> Exception:
            error = kind(message)
            error.__cause__ = cause
            return error

        with self._changed:
            handles = [handle for handle, _ in list(self._live.values())]
            handles += [*self._arrived, *self._inbox]
            self._inbox.clear()
            for handle in handles:
                handle.queued_tokens = 0
            self._num_queued = self._queued_tokens = 0
            self._changed.notify_all()
        self._live.clear()
        self._deadlines.clear()
        for handle in handles:
            if handle.end(make_error):
                self._counts["cancelled" if cause is None else "failed"] += 1

    def _kill_engine(self) -> None:
        if not hasattr(self, "engine"):
            return  # it is still being made
        try:
            self.engine.kill()
        except Exception:
            log.exception("the engine could not be killed")

    def _close_engine(self) -> None:
        try:
            self.engine.close()
        except Exception:
            log.exception("the engine failed while closing")
        self._forget()

    def _forget(self) -> None:
        atexit.unregister(self.close)
        self._over.set()
