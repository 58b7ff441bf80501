# SPDX-License-Identifier: Apache-2.0

"""`RequestHandle`: one request as its caller sees it, to wait for, read and cancel.

The driver's thread writes, any number of threads read. Each token is kept once, and a
reader remembers only how far it has read: a slow reader costs no memory and gets longer
deltas.
"""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..errors import RequestCancelledError, RequestTimeoutError
from ..fields import as_seconds
from ..outputs import CompletionDelta, RequestMetrics, RequestOutput
from .completion import Completion, Extent
from .owner import Owner

if TYPE_CHECKING:
    import asyncio

    from ..engines.base import EngineOutput
    from ..text.prompts import PreparedPrompt
    from .alarms import Alarm


class RequestHandle:
    """A submitted request. Made by `Generator.submit`; safe from several threads.

    Iterating yields a `CompletionDelta` whenever something is new, until the request
    has ended; several iterators may read the same request, each from its start. In an
    event loop, ``await handle`` returns the result and ``async for`` yields the deltas.

    Attributes:
        request_id: Unique within the generator.
    """

    __module__ = "unillm"

    # A million of them may wait.
    __slots__ = (
        "__weakref__",
        "_alarms",
        "_arrival_time",
        "_changed",
        "_ended",
        "_error",
        "_first_token_ts",
        "_last_token_ts",
        "_limited_by_default",
        "_lock",
        "_num_reading",
        "_on_cancel",
        "_on_done",
        "_owner",
        "_prepared",
        "_queued_ts",
        "completions",
        "deadline",
        "queued_tokens",
        "request_id",
    )

    def __init__(
        self,
        *,
        request_id: str,
        prepared: PreparedPrompt,
        completions: list[Completion],
        deadline: float | None,
        owner: Owner,
        limited_by_default: bool = False,
    ) -> None:
        self.request_id = request_id
        self.completions = completions
        self.deadline = deadline
        self.queued_tokens = 0
        """Prompt tokens that wait for their first new token, counted by the driver."""
        self._owner = owner
        self._on_cancel: Callable[[RequestHandle], None] | None = None
        self._on_done: tuple[Callable[[RequestHandle], None], ...] = ()
        self._prepared = prepared
        self._limited_by_default = limited_by_default
        # Reentrant: the collector may end a forgotten request anywhere.
        self._lock = threading.RLock()
        self._changed: threading.Condition | None = None  # once a thread waits
        self._num_reading = 0
        self._alarms: tuple[Alarm, ...] = ()
        self._ended = False
        self._error: Exception | None = None
        self._arrival_time = time.time()
        self._queued_ts = time.monotonic()
        self._first_token_ts: float | None = None
        self._last_token_ts: float | None = None

    def __repr__(self) -> str:
        state = "done" if self._ended else "running"
        return f"<RequestHandle {self.request_id} {state}>"

    # ------------------------------------------------------------------- for callers

    @property
    def prompt(self) -> str | None:
        """Text as it was tokenised; `None` for token prompts."""
        return self._prepared.text

    @property
    def prompt_token_ids(self) -> tuple[int, ...]:
        """Ids as the engine sees them."""
        return self._prepared.token_ids

    def done(self) -> bool:
        """Whether the request has finished, failed or been cancelled.

        Raises:
            GeneratorForkedError: In a forked child, if it had not ended before.
        """
        self._check_process()
        return self._ended

    def add_done_callback(self, callback: Callable[[RequestHandle], None]) -> None:
        """Call *callback* once with this handle when the request has ended.

        A request that has ended already calls it at once. Otherwise the thread that
        ends the request does, mostly the one that drives the engine, so *callback* must
        return at once and raise nothing: put the handle into a queue.
        """
        with self._lock:
            if not self._ended:
                self._on_done += (callback,)
                return
        callback(self)

    def result(self, timeout: float | None = None) -> RequestOutput:
        """Wait for the end and return the whole output.

        Args:
            timeout: Seconds to wait; `None` waits as long as it takes.

        Raises:
            RequestTimeoutError: *timeout* passed and the request goes on; or the
                request's own deadline ended it.
            RequestCancelledError: The request was cancelled.
            RequestError: The request failed.
            EngineDeadError: The engine died.
            GeneratorClosedError: The generator was closed before the end.
            GeneratorForkedError: In a forked child, if it had not ended before.
        """
        timeout = as_seconds("timeout", timeout)
        self._check_process()
        with self._lock:
            if not self._wait_for(lambda: self._ended, timeout):
                raise RequestTimeoutError(
                    f"Request {self.request_id} has not ended after {timeout} s. It "
                    "goes on: call result() again, or cancel() to end it."
                )
            if self._error is not None:
                raise self._error
            return self._output()

    def cut_by_default(self) -> bool:
        """Whether an answer ended by length, and the caller had set no `max_tokens`."""
        return self._limited_by_default and any(
            completion.finish_reason == "length" for completion in self.completions
        )

    def output(self) -> RequestOutput:
        """Return the output so far, without waiting; also of a request that failed."""
        self._check_process()
        with self._lock:
            return self._output()

    def cancel(self) -> None:
        """End the request now; its slot is free within one step.

        Cancelling an ended request does nothing.

        Raises:
            GeneratorForkedError: In a forked child, if it had not ended before.
        """
        self._check_process()
        message = f"Request {self.request_id} was cancelled."
        ended = self.end(lambda output: RequestCancelledError(message, output=output))
        if ended and self._on_cancel is not None:  # else no driver has it yet
            self._on_cancel(self)

    def __iter__(self) -> Iterator[CompletionDelta]:
        seen = [Extent() for _ in self.completions]
        ended = False
        while not ended:
            self._check_process()
            with self._lock:
                self._num_reading += 1
                try:
                    self._wait_for(lambda: self._ended or self._extents() != seen)
                finally:
                    self._num_reading -= 1
                deltas, ended = self._read(seen), self._ended
            yield from deltas
        if self._error is not None:
            raise self._error

    def __await__(self) -> Generator[Any, None, RequestOutput]:
        return self._aresult().__await__()

    async def _aresult(self) -> RequestOutput:
        self._check_process()
        with self._alarm(for_end=True) as alarm:
            if not self._ended:
                await alarm.wait()
        return self.result()

    async def __aiter__(self) -> AsyncIterator[CompletionDelta]:
        seen = [Extent() for _ in self.completions]
        ended = False
        self._check_process()
        with self._alarm() as alarm:
            while not ended:
                alarm.clear()  # before reading, so that later tokens set it again
                with self._lock:
                    deltas, ended = self._read(seen), self._ended
                for delta in deltas:
                    yield delta
                if not ended:
                    await alarm.wait()
        if self._error is not None:
            raise self._error

    @contextmanager
    def _alarm(self, *, for_end: bool = False) -> Iterator[asyncio.Event]:
        """Yield an event of the running loop that each change sets, or only the end.

        A loop that is busy elsewhere gets one callback, however much changes meanwhile.
        """
        from .alarms import Alarm

        alarm = Alarm(for_end=for_end)
        with self._lock:
            self._alarms += (alarm,)
        try:
            yield alarm.event
        finally:
            with self._lock:
                self._alarms = tuple(each for each in self._alarms if each is not alarm)

    def _wait_for(
        self, holds: Callable[[], bool], timeout: float | None = None
    ) -> bool:
        """Wait, with the lock held, until *holds*; false if *timeout* passed before."""
        if self._ended:
            return True
        if self._changed is None:
            self._changed = threading.Condition(self._lock)
        return self._changed.wait_for(holds, timeout)

    def _check_process(self) -> None:
        """Raise `GeneratorForkedError` where the request can never end."""
        if self._owner.is_here():
            return
        if not self._ended:
            self._owner.check()
        self._lock = threading.RLock()  # the driver's thread may have held it

    # ---------------------------------------------------------------- for the driver

    def update(self, completion: Completion, output: EngineOutput, now: float) -> bool:
        """Write an engine's output into a completion and wake the readers.

        The request ends with its last completion. After that nothing is written, and
        the method returns false.

        Args:
            completion: One of the request's own.
            output: Of its engine.
            now: When the engine returned it, by `time.monotonic`.
        """
        with self._lock:
            if self._ended:
                return False
            completion.write(output)
            self._last_token_ts = now
            if self._first_token_ts is None:
                self._first_token_ts = now
            if completion.finish_reason is not None:
                self._ended = all(each.finish_reason for each in self.completions)
            if self._ended or self._num_reading or self._alarms:
                self._wake()
            return True

    def finished(self) -> bool:
        """Whether the request has ended with its last completion, not by an error."""
        return self._ended and self._error is None

    def leave(self) -> None:
        """Cancel the request, unless a forked child leaves the loop of its parent."""
        if self._owner.is_here():
            self.cancel()

    def accept(self, on_cancel: Callable[[RequestHandle], None]) -> bool:
        """Note that a driver has the request; false if it has already ended.

        From here on, and never before, a cancellation calls *on_cancel*.
        """
        with self._lock:
            if not self._ended:
                self._on_cancel = on_cancel
            return not self._ended

    def end(self, make_error: Callable[[RequestOutput], Exception]) -> bool:
        """End the request with an error; false if it has already ended."""
        with self._lock:
            if self._ended:
                return False
            for completion in self.completions:
                completion.finish_reason = completion.finish_reason or "abort"
            self._error = make_error(self._output())
            self._ended = True
            self._wake()
            return True

    def _wake(self) -> None:
        """Wake the waiting readers; the lock is held.

        `result()` callers are woken only at the end: a thread that wakes for each token
        takes a core away from the engine's next step.
        """
        if self._changed is not None and (self._ended or self._num_reading):
            self._changed.notify_all()
        for alarm in self._alarms:
            if self._ended or not alarm.for_end:
                alarm.ring()
        if self._ended and self._on_done:
            callbacks, self._on_done = self._on_done, ()
            for callback in callbacks:
                callback(self)

    # ------------------------------------------------------------------------ values

    def _output(self) -> RequestOutput:
        first, prepared = self.completions[0], self._prepared
        return RequestOutput(
            request_id=self.request_id,
            prompt=self.prompt,
            prompt_token_ids=list(self.prompt_token_ids),
            outputs=[completion.output() for completion in self.completions],
            finished=all(c.finish_reason for c in self.completions),
            prompt_logprobs=first.prompt_logprobs,
            metrics=RequestMetrics(
                arrival_time=self._arrival_time,
                queued_ts=self._queued_ts,
                first_token_ts=self._first_token_ts,
                last_token_ts=self._last_token_ts,
                num_generation_tokens=sum(len(c.token_ids) for c in self.completions),
                slots=first.slots,
            ),
            lora_request=first.lora_request,
            num_cached_tokens=first.num_cached_tokens,
            num_truncated_tokens=prepared.num_truncated,
            fitted_max_tokens=prepared.max_new_tokens if prepared.fitted else None,
        )

    def _extents(self) -> list[Extent]:
        return [completion.extent() for completion in self.completions]

    def _read(self, seen: list[Extent]) -> list[CompletionDelta]:
        """Return the deltas since *seen*, which then becomes the present ones."""
        now = self._extents()
        deltas = [
            completion.delta(before)
            for completion, before, after in zip(
                self.completions, seen, now, strict=True
            )
            if before != after
        ]
        seen[:] = now
        return deltas
