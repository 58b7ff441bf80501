# SPDX-License-Identifier: Apache-2.0

"""The loop: one thread that makes an engine, feeds it and delivers what it says.

Callers' threads only put things into the inbox. The driver knows an `Engine` and
nothing of its kind: slots, runs and continuous engines are all the same to it.

What holds: every accepted request ends exactly once; what a caller cancelled is
aborted in the engine before its next step; if the engine dies, hangs or is closed,
every waiter is told. The waiting requests, those that have no token yet, are bounded in
number and in prompt tokens, on any engine.
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
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs

from ..errors import (
    EngineDeadError,
    EngineOutOfMemoryError,
    GeneratorClosedError,
    PluginError,
    QueueFullError,
    RequestError,
    RequestFailedError,
    RequestTimeoutError,
)
from ..outputs import Logprob, RequestOutput
from ..text.detokenizer import decode_token
from .completion import Completion
from .handle import RequestHandle

if TYPE_CHECKING:
    from ..engines.base import Engine, EngineOutput, TokenLogprobs
    from ..text.tokenizer import Tokenizer

log = logging.getLogger("unillm.driver")

CLOSE_TIMEOUT_S = 8.0
"""How long `Driver.close` waits for an engine before it kills it."""

KILL_TIMEOUT_S = 2.0
"""How long `Driver.close` waits for an engine that it has killed."""

WATCH_INTERVAL_S = 1.0
"""How often the watchdog looks; less where `step_timeout_s` is short."""


@attrs.define(kw_only=True)
class DriverCounters:
    """What became of the requests since the driver started."""

    accepted: int = 0
    finished: int = 0
    failed: int = 0
    cancelled: int = 0
    """By a caller, a deadline or the closing of the generator."""


class Driver:
    """Runs an engine on a thread of its own.

    The engine is made on that thread too. Each thread that computes with OpenMP keeps a
    team of workers of its own, and GNU's library lets all teams sleep between two
    parallel regions as soon as there are more workers than cores: an engine that was
    loaded on one thread and stepped on another one took twice as long for a step.

    Args:
        create_engine: Makes the engine, which the driver closes. What it raises is
            raised here.
        tokenizer: For the texts of log-probabilities.
        primary_eos: The end id that is reported without a `stop_reason`.
        max_queued_requests: Requests that may wait for their first token.
        max_queued_tokens: Prompt tokens of those requests together.
        step_timeout_s: Seconds after which an engine that has not answered counts as
            dead; infinity waits for ever.
        clock: Seconds that only grow, for deadlines and timeouts.
        threaded: Run the loop on a thread, and a watchdog on another one. Otherwise
            the caller does what they do: it calls `turn` and `check_hang`.
    """

    def __init__(
        self,
        create_engine: Callable[[], Engine],
        *,
        tokenizer: Tokenizer,
        primary_eos: int,
        max_queued_requests: int,
        max_queued_tokens: int,
        step_timeout_s: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
        threaded: bool = True,
    ) -> None:
        self.engine: Engine
        self._step_timeout_s = step_timeout_s
        self._clock = clock
        self._tokenizer = tokenizer
        self._primary_eos = primary_eos
        self._max_queued_requests = max_queued_requests
        self._max_queued_tokens = max_queued_tokens

        # Reentrant: a collector may end a forgotten request or generator anywhere.
        self._changed = threading.Condition(threading.RLock())
        # All below is guarded by `_changed`, but for what says that it is the thread's.
        self._inbox: deque[RequestHandle] = deque()
        self._cancelled: deque[RequestHandle] = deque()
        self._queued: dict[str, int] = {}  # request id → prompt tokens
        self._queued_tokens = 0
        self._closing = False
        self._dead: EngineDeadError | None = None
        self.counters = DriverCounters()
        # The loop's own, but for what `_end_all` takes from a loop that hangs.
        self._arrived: deque[RequestHandle] = deque()  # until the engine has them
        self._live: dict[str, tuple[RequestHandle, Completion]] = {}
        self._deadlines: list[tuple[float, str, RequestHandle]] = []
        self._busy_since: float | None = None
        self._over = threading.Event()

        made: Future[Engine] = Future()
        self._thread = threading.Thread(
            # Whoever logs or warns while the engine is made does so for the caller.
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
            self._await(made)
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
            self._refuse_if_over()
            while not self._has_room(tokens):
                if not block:
                    raise self._queue_full(tokens)
                self._changed.wait()
                self._refuse_if_over()
            self._queued[handle.request_id] = tokens
            self._queued_tokens += tokens
            self._inbox.append(handle)
            self.counters.accepted += 1
            self._changed.notify_all()

    def cancel(self, handle: RequestHandle) -> None:
        """Take a request, which its caller has ended, out of the engine."""
        with self._changed:
            self._cancelled.append(handle)
            self._leave_queue(handle)
            self._changed.notify_all()

    def stats(self) -> dict[str, Any]:
        """Return the counters of the requests and of the engine."""
        with self._changed:
            return {
                **attrs.asdict(self.counters),
                "queued": len(self._queued),
                "queued_tokens": self._queued_tokens,
                "live": len(self._live),
                "deadlines": len(self._deadlines),
                "engine": dict(self.engine.stats()),
            }

    def abandon(self) -> None:
        """Ask the thread to end all requests and the engine; do not wait for it."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def close(self) -> None:
        """End all requests and the engine. Closing twice does nothing."""
        self.abandon()
        if self._thread.ident is None:  # its caller turns it
            while self.turn(block=False):
                pass
            return
        if self._thread is threading.current_thread():  # collected in its own thread
            return
        self._thread.join(CLOSE_TIMEOUT_S)
        if not self._thread.is_alive():
            return
        self._end_all(_closed_error)
        self._kill_engine()
        self._thread.join(KILL_TIMEOUT_S)
        if self._thread.is_alive():
            log.warning(
                "the engine has not answered for %g s while closing; it is left to "
                "the end of the process",
                CLOSE_TIMEOUT_S + KILL_TIMEOUT_S,
            )

    def _await(self, made: Future[Engine]) -> None:
        """Wait for the engine; if its caller does not, it is closed once it is made."""
        try:
            made.result()
        except BaseException:
            self.abandon()
            raise

    def _refuse_if_over(self) -> None:
        if self._dead is not None:
            raise EngineDeadError(str(self._dead)) from self._dead.__cause__
        if self._closing:
            raise _closed_error()

    def _has_room(self, tokens: int) -> bool:
        if not self._queued:
            return True  # one request is always taken, however long
        return (
            len(self._queued) < self._max_queued_requests
            and self._queued_tokens + tokens <= self._max_queued_tokens
        )

    def _queue_full(self, tokens: int) -> QueueFullError:
        return QueueFullError(
            f"The queue is full: {len(self._queued)} requests with "
            f"{self._queued_tokens} prompt tokens wait, this one has {tokens}; the "
            f"limits are {self._max_queued_requests} requests and "
            f"{self._max_queued_tokens} tokens. Submit again when some have started, "
            "or raise max_queued_requests or max_queued_tokens."
        )

    # ----------------------------------------------------------- on the driver's thread

    def _run(self, create_engine: Callable[[], Engine], made: Future[Engine]) -> None:
        try:
            self.engine = create_engine()
        except BaseException as error:  # noqa: BLE001 - the caller is told, whatever it is
            self._forget()
            made.set_exception(error)
            return
        made.set_result(self.engine)
        while self.turn():
            pass

    def turn(self, *, block: bool = True) -> bool:
        """Go round once: bring news to the engine, step it, deliver what it says.

        Args:
            block: Wait for news if there is nothing to do.

        Returns:
            Whether to go on. Once false, the engine is closed and all waiters are told.
        """
        if self._over.is_set():
            return False
        try:
            if self._take_inbox(block=block):
                self._expire()
                outputs = self._step() if self._live else ()
                if self._dead is None:  # or it hung, and nobody waits any more
                    for output in outputs:
                        self._deliver(output)
                    if not self._live:
                        self._deadlines.clear()
                    self._busy_since = None
                    return True
            else:
                self._end_all(_closed_error)
        except BaseException as error:  # noqa: BLE001 - whatever it is, waiters are told
            self._die(error)
        self._busy_since = None
        self._close_engine()
        return False

    def _take_inbox(self, *, block: bool) -> bool:
        """Bring news to the engine, waiting for some if it is idle; false to end."""
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
            self.counters.cancelled += 1
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
            return  # cancelled before the engine saw it
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
            if handle.end(_timed_out):
                self._abort(handle)
                self._leave(handle)
                self.counters.cancelled += 1

    def _deliver(self, output: EngineOutput) -> None:
        entry = self._live.get(output.request_id)
        if entry is None:
            return  # ended or aborted earlier in this step
        handle, completion = entry
        if output.finish_reason == "error":
            message = f"Request {handle.request_id} failed: {output.error}"
            self._fail(handle, RequestFailedError(message))
            return
        first = not handle.has_tokens
        try:
            written = handle.update(lambda: self._write(completion, output))
        except Exception as error:  # noqa: BLE001 - a caller's tokenizer may raise anything
            failure = RequestFailedError(
                f"Request {handle.request_id} failed: its new tokens could not be "
                f"turned into text: {type(error).__name__}: {error}"
            )
            failure.__cause__ = error
            self._fail(handle, failure)
            return
        if not written:
            return  # its caller has cancelled it; the inbox has the rest
        if completion.finish_reason is not None:
            self._live.pop(output.request_id, None)
            if output.finish_reason is None:  # a stop string: only the core knows
                self.engine.abort([output.request_id])
        if handle.done():
            self.counters.finished += 1
        if first or handle.done():
            self._leave(handle)

    def _write(self, completion: Completion, output: EngineOutput) -> None:
        """Add an output to its completion: ids, text, log-probabilities, the end."""
        completion.num_cached_tokens = output.num_cached_tokens
        completion.slots = output.slots
        if output.prompt_logprobs is not None:
            self._write_prompt_logprobs(completion, output.prompt_logprobs)
        detokenizer = completion.detokenizer
        for position, token_id in enumerate(output.token_ids):
            completion.token_ids.append(token_id)
            if output.logprobs is not None:
                self._write_logprobs(completion, token_id, output.logprobs[position])
            last = position + 1 == len(output.token_ids)
            if last and output.stop_token_id is not None:
                completion.text += detokenizer.finish(stop_token_id=token_id)
                completion.finish_reason = "stop"
                # A stop id whose text is kept may complete a stop string, which wins.
                completion.stop_reason = detokenizer.matched_stop or self._stop_reason(
                    completion, token_id
                )
                return
            completion.text += detokenizer.push(token_id)
            if detokenizer.matched_stop is not None:
                completion.finish_reason = "stop"
                completion.stop_reason = detokenizer.matched_stop
                return
        if output.finish_reason is not None:
            completion.text += detokenizer.finish()
            completion.finish_reason = output.finish_reason

    def _stop_reason(self, completion: Completion, token_id: int) -> int | None:
        """As in vLLM: none for the tokenizer's own EOS, if it was not ignored."""
        own = token_id == self._primary_eos and not completion.request.params.ignore_eos
        return None if own else token_id

    def _write_logprobs(
        self, completion: Completion, token_id: int, at: TokenLogprobs
    ) -> None:
        if completion.logprobs is None:
            completion.logprobs, completion.cumulative_logprob = [], 0.0
        assert completion.cumulative_logprob is not None
        completion.cumulative_logprob += at.logprob
        completion.logprobs.append(self._entries(completion, token_id, at))

    def _write_prompt_logprobs(
        self, completion: Completion, logprobs: Sequence[TokenLogprobs]
    ) -> None:
        ids = completion.request.prompt_token_ids[1:]
        completion.prompt_logprobs = [
            None,  # nothing predicts the first token
            *(
                self._entries(completion, token_id, at)
                for token_id, at in zip(ids, logprobs, strict=True)
            ),
        ]

    def _entries(
        self, completion: Completion, token_id: int, at: TokenLogprobs
    ) -> dict[int, Logprob]:
        """Return the token's own entry and those of the most probable ones."""
        as_text = completion.request.params.detokenize
        entries = {token_id: self._logprob(token_id, at.logprob, at.rank, as_text)}
        for rank, (top_id, logprob) in enumerate(
            zip(at.top_ids, at.top_logprobs, strict=True), start=1
        ):
            entries.setdefault(top_id, self._logprob(top_id, logprob, rank, as_text))
        return entries

    def _logprob(
        self, token_id: int, logprob: float, rank: int, as_text: bool
    ) -> Logprob:
        text = decode_token(self._tokenizer, token_id) if as_text else None
        return Logprob(logprob, rank, text)

    # ------------------------------------------------------------------------ endings

    def _fail(self, handle: RequestHandle, error: Exception) -> None:
        """End one request with an error; its other completions are aborted."""
        handle.end(partial(_instead_of_output, error))
        self._abort(handle)
        self._leave(handle)
        self.counters.failed += 1

    def _leave(self, handle: RequestHandle) -> None:
        with self._changed:
            self._leave_queue(handle)

    def _leave_queue(self, handle: RequestHandle) -> None:
        """Count a request as waiting no more. The lock is held."""
        tokens = self._queued.pop(handle.request_id, None)
        if tokens is not None:
            self._queued_tokens -= tokens
            self._changed.notify_all()

    def _watch(self) -> None:
        while not self._over.wait(min(WATCH_INTERVAL_S, self._step_timeout_s / 4)):
            self.check_hang()

    def check_hang(self) -> None:
        """Count an engine that has been busy for too long as dead, and tell everybody.

        The loop may come back later; what it brings is dropped then.
        """
        since = self._busy_since
        if since is None or self._clock() - since <= self._step_timeout_s:
            return
        with self._changed:
            if self._dead is not None:
                return
            self._dead = EngineDeadError(
                f"The engine has not answered for {self._step_timeout_s:g} s, so it "
                "counts as dead. All its requests are lost; create a new Generator. If "
                "a step may take longer on this machine, raise step_timeout_s."
            )
        log.error("%s", self._dead)
        cause = TimeoutError(f"no answer within {self._step_timeout_s:g} s")
        self._end_all(lambda: EngineDeadError(str(self._dead)), cause=cause)
        self._kill_engine()

    def _die(self, error: BaseException) -> None:
        if self._dead is not None:  # it hung before, and everybody was told
            return
        log.error("the engine failed", exc_info=error)
        dead = EngineDeadError(
            f"The engine failed with {type(error).__name__}: {error}. All its requests "
            "are lost; create a new Generator."
        )
        dead.__cause__ = error
        with self._changed:
            self._dead = dead
        # Whoever waits now can be told by its class what to change.
        memory = isinstance(error, EngineOutOfMemoryError)
        kind = EngineOutOfMemoryError if memory else EngineDeadError
        self._end_all(lambda: kind(str(dead)), cause=error)

    def _end_all(
        self, make_error: Callable[[], Exception], *, cause: BaseException | None = None
    ) -> None:
        """Tell every waiter, in the engine or still in the inbox."""
        with self._changed:
            waiting = list(self._inbox)
            self._inbox.clear()
            self._queued.clear()
            self._queued_tokens = 0
            self._changed.notify_all()
        handles = {
            handle.request_id: handle
            for handle in [
                *(handle for handle, _ in list(self._live.values())),
                *list(self._arrived),
            ]
        }
        handles |= {handle.request_id: handle for handle in waiting}
        self._live.clear()
        self._deadlines.clear()
        for handle in handles.values():
            error = make_error()
            error.__cause__ = cause
            if not handle.end(partial(_instead_of_output, error)):
                continue
            if cause is None:
                self.counters.cancelled += 1
            else:
                self.counters.failed += 1

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


def _timed_out(output: RequestOutput) -> RequestTimeoutError:
    return RequestTimeoutError(
        f"Request {output.request_id} did not end within its timeout_s; what it had "
        "generated is in .output.",
        output=output,
    )


def _instead_of_output(error: Exception, _: RequestOutput) -> Exception:
    return error


def _closed_error() -> GeneratorClosedError:
    return GeneratorClosedError(
        "The generator was closed. Create a new one; inside a `with` block, use it "
        "before the block ends."
    )
