# SPDX-License-Identifier: Apache-2.0

"""One request as its caller sees it: wait for it, read it as it grows, cancel it.

The driver's thread writes, any number of threads read. What has been generated is kept
once; a reader remembers how far it has read, so a slow one costs no memory and simply
gets longer deltas.
"""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import attrs

from ..errors import RequestCancelledError, RequestTimeoutError
from ..outputs import (
    CompletionDelta,
    RequestMetrics,
    RequestOutput,
)
from .completion import Completion

if TYPE_CHECKING:
    import asyncio


@attrs.frozen
class _Read:
    """How far a reader has read one completion."""

    chars: int = 0
    tokens: int = 0
    ended: bool = False


class RequestHandle:
    """A submitted request. Made by `Generator.submit`; safe from several threads.

    Iterating yields a `CompletionDelta` whenever something is new, until the request
    has ended; several iterators may read the same request, each from its start. In an
    event loop, ``await handle`` gives the result and ``async for`` the deltas.

    Attributes:
        request_id: Unique within the generator.
        prompt: Text as it was tokenised; `None` for token prompts.
        prompt_token_ids: Ids as the engine sees them.
    """

    __module__ = "unillm"

    def __init__(
        self,
        *,
        request_id: str,
        prompt: str | None,
        completions: list[Completion],
        num_truncated_tokens: int,
        fitted_max_tokens: int | None,
        deadline: float | None,
        on_cancel: Callable[[RequestHandle], None],
    ) -> None:
        self.request_id = request_id
        self.prompt = prompt
        self.prompt_token_ids = completions[0].request.prompt_token_ids
        self.completions = completions
        self.deadline = deadline
        self._num_truncated_tokens = num_truncated_tokens
        self._fitted_max_tokens = fitted_max_tokens
        self._on_cancel = on_cancel
        self._changed = threading.Condition(threading.RLock())
        self._num_reading = 0
        self._alarms: list[Callable[[], None]] = []
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

    def done(self) -> bool:
        """Whether the request has ended, in whatever way."""
        return self._ended

    def result(self, timeout: float | None = None) -> RequestOutput:
        """Wait for the end and return everything.

        Args:
            timeout: Seconds to wait; `None` waits as long as it takes.

        Raises:
            RequestTimeoutError: *timeout* passed and the request goes on; or the
                request's own deadline ended it.
            RequestCancelledError: It was cancelled.
            RequestError: The request failed.
            EngineDeadError: The engine died.
            GeneratorClosedError: The generator was closed before the end.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._ended, timeout):
                raise RequestTimeoutError(
                    f"Request {self.request_id} has not ended after {timeout} s. It "
                    "goes on: call result() again, or cancel() to end it."
                )
            if self._error is not None:
                raise self._error
            return self._output()

    def cancel(self) -> None:
        """End the request now; its slot is free within one step.

        Does nothing once the request has ended.
        """
        message = f"Request {self.request_id} was cancelled."
        if self.end(lambda output: RequestCancelledError(message, output=output)):
            self._on_cancel(self)

    def __iter__(self) -> Iterator[CompletionDelta]:
        reads = [_Read() for _ in self.completions]
        while True:
            with self._changed:
                self._wait_for_more(reads)
                deltas = self._read(reads)
                ended, error = self._ended, self._error
            yield from deltas
            if ended:
                if error is not None:
                    raise error
                return

    def __await__(self) -> Generator[Any, None, RequestOutput]:
        return self._aresult().__await__()

    async def _aresult(self) -> RequestOutput:
        with self._alarm(for_end=True) as alarm:
            if not self._ended:
                await alarm.wait()
        return self.result()

    async def __aiter__(self) -> AsyncIterator[CompletionDelta]:
        reads = [_Read() for _ in self.completions]
        with self._alarm() as alarm:
            while True:
                alarm.clear()  # before looking, so that what comes after rings again
                with self._changed:
                    deltas = self._read(reads)
                    ended, error = self._ended, self._error
                for delta in deltas:
                    yield delta
                if ended:
                    break
                await alarm.wait()
        if error is not None:
            raise error

    @contextmanager
    def _alarm(self, *, for_end: bool = False) -> Iterator[asyncio.Event]:
        """An event of the running loop that is set after every change, or at the end.

        A loop that is busy elsewhere is called once, however much changes meanwhile.
        """
        import asyncio

        loop, event = asyncio.get_running_loop(), asyncio.Event()
        called = False

        def wake() -> None:
            nonlocal called
            called = False  # first: what changes from here on calls again
            event.set()

        def ring() -> None:
            nonlocal called
            if called or (for_end and not self._ended):
                return
            called = True
            # The loop may be closed before its reader said goodbye.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(wake)

        with self._changed:
            self._alarms.append(ring)
        try:
            yield event
        finally:
            with self._changed:
                self._alarms.remove(ring)

    # ------------------------------------------------------------- for the driver

    def update(self, write: Callable[[], None]) -> bool:
        """Run *write*, which adds new tokens, and wake the readers.

        Ends the request if that ended the last completion. Once the request has ended
        it grows no more: then nothing is written, and the answer is false.
        """
        with self._changed:
            if self._ended:
                return False
            write()
            self._last_token_ts = time.monotonic()
            self._first_token_ts = self._first_token_ts or self._last_token_ts
            # A loop, because `all` makes a generator, for each token of each request.
            for completion in self.completions:
                if completion.finish_reason is None:
                    break
            else:
                self._ended = True
            self._wake()
            return True

    def end(self, make_error: Callable[[RequestOutput], Exception]) -> bool:
        """End with an error; false if the request has already ended."""
        with self._changed:
            if self._ended:
                return False
            for completion in self.completions:
                completion.finish_reason = completion.finish_reason or "abort"
            self._error = make_error(self._output())
            self._ended = True
            self._wake()
            return True

    @property
    def has_tokens(self) -> bool:
        """Whether anything was generated yet."""
        return self._first_token_ts is not None

    def _wait_for_more(self, reads: list[_Read]) -> None:
        """Wait until there is more than *reads*, or no more will come. Locked."""
        self._num_reading += 1
        try:
            self._changed.wait_for(lambda: self._ended or self._is_behind(reads))
        finally:
            self._num_reading -= 1

    def _wake(self) -> None:
        """Tell those who wait for what has changed. The lock is held.

        Who waits for the end sleeps until then: a thread that is woken up for each
        token takes a core away from the engine's next step.
        """
        if self._ended or self._num_reading:
            self._changed.notify_all()
        for ring in self._alarms:
            ring()

    # ------------------------------------------------------------------------ values

    def _output(self) -> RequestOutput:
        first = self.completions[0]
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
            num_cached_tokens=first.num_cached_tokens,
            num_truncated_tokens=self._num_truncated_tokens,
            fitted_max_tokens=self._fitted_max_tokens,
        )

    def _is_behind(self, reads: list[_Read]) -> bool:
        return any(
            len(completion.token_ids) > read.tokens or len(completion.text) > read.chars
            for completion, read in zip(self.completions, reads, strict=True)
        )

    def _read(self, reads: list[_Read]) -> list[CompletionDelta]:
        """What is new since *reads*, which are moved on."""
        deltas = []
        for index, completion in enumerate(self.completions):
            read = reads[index]
            ended = completion.finish_reason is not None
            now = _Read(len(completion.text), len(completion.token_ids), ended)
            if now == read:
                continue
            reads[index] = now
            logprobs = completion.logprobs
            deltas.append(
                CompletionDelta(
                    index=index,
                    text=completion.text[read.chars :],
                    token_ids=completion.token_ids[read.tokens :],
                    logprobs=None if logprobs is None else logprobs[read.tokens :],
                    finish_reason=completion.finish_reason,
                    stop_reason=completion.stop_reason,
                )
            )
        return deltas
