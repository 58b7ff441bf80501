# SPDX-License-Identifier: Apache-2.0

"""A thread with an event loop, on which the requests to one server run.

Invariants: a cancelled request reports nothing more; each other one reports exactly one
end; a request is sent again only while no token of its answer has arrived; the death of
the server is reported once, and within seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs
import httpx

from unillm.backend import EngineOutput

from ._answers import Answer, AnswerError
from ._events import EventReader, TooLargeError
from ._failures import FULL, Failure, error_text, failure_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from ._address import Address
    from ._endpoints.base import Reader

MAX_ANSWER_BYTES = 256 * 2**20
"""Largest event, and largest answer that comes in one piece."""

CONNECT_TIMEOUT_S = 5.0
WRITE_TIMEOUT_S = 60.0
TRIES = 3
"""Times that a request is sent, if each time nothing came back."""
FULL_PATIENCE_S = 300.0
"""Seconds for which a request goes on asking a server that takes no more."""
SILENCE_S = 2.0
"""Seconds without a byte of any answer after which the server's health is asked."""
HEALTH_TIMEOUT_S = 5.0
HEALTH_TRIES = 2
HEALTH_PAUSE_S = 0.5
CLOSE_TIMEOUT_S = 3.0
DRAIN_TIMEOUT_S = 0.5
"""Wait for the end of a response after its last event; only then its connection can
serve the next request."""

_DONE = "[DONE]"


@attrs.define(eq=False, kw_only=True)
class Exchange:
    """One request on its way; the caller recognises it by its identity."""

    request_id: str
    path: str
    body: bytes
    streamed: bool
    reader: Reader
    answer: Answer
    task: asyncio.Task[None] | None = None
    cancelled: bool = False


@attrs.frozen
class Death:
    """The server is gone."""

    reason: str


class SaidError(Exception):
    """The server says in its answer that it failed."""


News: TypeAlias = "tuple[Exchange, EngineOutput] | Death"


class Transport:
    """Runs requests to one server.

    Args:
        address: Of the server.
        health_path: Path that answers while the server works.
        connections: Requests at the same time.
        report: Called on the loop's thread with each output, and with the death.
    """

    def __init__(
        self,
        address: Address,
        *,
        health_path: str,
        connections: int,
        report: Callable[[News], None],
    ) -> None:
        self._address = address
        self._health_path = health_path
        self._connections = connections
        self._report = report
        self._loop = asyncio.new_event_loop()
        self._stopped = asyncio.Event()
        self._running = 0
        self._dead = False
        self._heard_at = 0.0
        self._checking: asyncio.Task[str | None] | None = None
        self.num_retries = 0
        """Requests that were sent again."""
        self._thread = threading.Thread(
            target=self._run, name="unillm-remote", daemon=True
        )
        self._thread.start()

    # ---------------------------------------------------------------- from any thread

    def begin(self, exchange: Exchange) -> None:
        """Begin a request."""
        with contextlib.suppress(RuntimeError):  # the loop ended, which was reported
            self._loop.call_soon_threadsafe(self._begin, exchange)

    def cancel(self, exchange: Exchange) -> None:
        """End a request and its connection; nothing more is reported of it."""
        exchange.cancelled = True
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._cancel, exchange)

    def close(self) -> None:
        """End all requests, connections and the thread."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(CLOSE_TIMEOUT_S)

    # ------------------------------------------------------------- on the loop's thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        except Exception as error:  # noqa: BLE001 - every caller gets it
            self._die(f"{type(error).__name__}: {error}")
        finally:
            self._loop.run_until_complete(_cancel_others())
            self._loop.close()

    async def _serve(self) -> None:
        async with self._open() as client:
            self._client = client
            self._watching = asyncio.create_task(self._watch())
            await self._stopped.wait()
            await _cancel_others()

    def _open(self) -> httpx.AsyncClient:
        # One more connection asks for the health.
        connections = self._connections + 1
        return httpx.AsyncClient(
            base_url=self._address.url,
            # A proxy that compresses a stream holds it back.
            headers={**self._address.headers, "accept-encoding": "identity"},
            limits=httpx.Limits(
                max_connections=connections, max_keepalive_connections=connections
            ),
            timeout=httpx.Timeout(
                connect=CONNECT_TIMEOUT_S, write=WRITE_TIMEOUT_S, read=None, pool=None
            ),
        )

    def _begin(self, exchange: Exchange) -> None:
        if not exchange.cancelled and not self._stopped.is_set():
            exchange.task = asyncio.create_task(self._exchange(exchange))

    def _cancel(self, exchange: Exchange) -> None:
        if exchange.task is not None:
            exchange.task.cancel()

    async def _exchange(self, exchange: Exchange) -> None:
        self._running += 1
        if self._running == 1:
            self._heard_at = time.monotonic()
        try:
            failure = await self._tries(exchange)
        except Exception as error:  # noqa: BLE001 - the caller gets it
            failure = Failure(message=f"{type(error).__name__}: {error}")
        finally:
            self._running -= 1
        if failure is not None and not self._dead:
            output = EngineOutput(
                request_id=exchange.request_id,
                finish_reason="error",
                error=self._address.hide(failure.message),
            )
            self._say(exchange, output)

    def _say(self, exchange: Exchange, output: EngineOutput) -> None:
        if not exchange.cancelled:
            self._report((exchange, output))

    async def _tries(self, exchange: Exchange) -> Failure | None:
        """Send a request until it is answered; return why it never will be."""
        give_up_at = time.monotonic() + FULL_PATIENCE_S
        tries = 0
        while True:
            failure = await self._try(exchange)
            if failure is None or failure.retry_after_s is None:
                return failure
            if failure.full:
                if time.monotonic() + failure.retry_after_s > give_up_at:
                    return failure
            else:
                tries += 1
                reason = await self._health()
                if reason is not None:
                    self._die(reason)
                if self._dead or tries == TRIES:
                    return failure
            await asyncio.sleep(failure.retry_after_s)
            self.num_retries += 1

    async def _try(self, exchange: Exchange) -> Failure | None:
        """Send a request once; return why it has no answer."""
        try:
            return await self._send(exchange)
        except httpx.TransportError as error:
            return await self._broken(exchange.answer, error)
        except SaidError as error:
            tokens = exchange.answer.num_tokens
            message = f"the server failed after {tokens} new tokens: {error}"
        except (AnswerError, TooLargeError) as error:
            message = f"the server's answer is not valid: {error}"
        except ValueError as error:  # of JSON or UTF-8
            message = f"the server's answer cannot be read: {error}"
        return Failure(message=message)

    async def _send(self, exchange: Exchange) -> Failure | None:
        async with self._client.stream(
            "POST",
            exchange.path,
            content=exchange.body,
            headers={"content-type": "application/json"},
        ) as response:
            self._heard_at = time.monotonic()
            kind = response.headers.get("content-type", "")
            wanted = "event-stream" if exchange.streamed else "json"
            if response.status_code != 200 or wanted not in kind:
                beginning = await _beginning(response)
                return failure_of(response.status_code, response.headers, beginning)
            try:
                if exchange.streamed:
                    await self._read_events(exchange, response)
                else:
                    await self._read_whole(exchange, response)
            except httpx.TransportError:
                if not exchange.answer.ended:  # else only counts are missing
                    raise
        self._say(exchange, exchange.answer.last())
        return None

    async def _broken(self, answer: Answer, error: httpx.TransportError) -> Failure:
        reason = f"{type(error).__name__}: {error}".rstrip(": ")
        if answer.num_tokens == 0:
            message = f"the server did not answer: {reason}"
            return Failure(message=message, retry_after_s=0.2)
        if (death := await self._health()) is not None:
            self._die(death)
        tokens = answer.num_tokens
        return Failure(
            message=f"the connection broke after {tokens} new tokens: {reason}"
        )

    async def _read_events(self, exchange: Exchange, response: httpx.Response) -> None:
        events = EventReader(MAX_ANSWER_BYTES)
        pieces = response.aiter_bytes()
        async for piece in pieces:
            self._heard_at = time.monotonic()
            for data in events.feed(piece):
                if data == _DONE:
                    with contextlib.suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(_drain(pieces), DRAIN_TIMEOUT_S)
                    return
                self._take(exchange, json.loads(data))
                if exchange.answer.cut:
                    return

    async def _read_whole(self, exchange: Exchange, response: httpx.Response) -> None:
        body = bytearray()
        async for piece in response.aiter_bytes():
            self._heard_at = time.monotonic()
            body += piece
            if len(body) > MAX_ANSWER_BYTES:
                raise TooLargeError(f"it has more than {MAX_ANSWER_BYTES} bytes")
        self._take(exchange, json.loads(bytes(body)))

    def _take(self, exchange: Exchange, event: Any) -> None:
        if not isinstance(event, dict):
            raise AnswerError(f"an event must be an object, got {event!r:.80}")
        if (said := error_text(event)) is not None:
            raise SaidError(said)
        part = exchange.reader.read(event)
        output = None if part is None else exchange.answer.add(part)
        if output is not None:
            self._say(exchange, output)

    # -------------------------------------------------------------------------- health

    async def _watch(self) -> None:
        """Ask for the server's health whenever requests run and nothing is heard."""
        while True:
            await asyncio.sleep(SILENCE_S / 4)
            silent = time.monotonic() - self._heard_at > SILENCE_S
            if self._running and silent and not self._dead:
                reason = await self._health()
                if reason is not None:
                    self._die(reason)
                self._heard_at = time.monotonic()

    def _die(self, reason: str) -> None:
        if not self._dead:
            self._dead = True
            self._report(Death(self._address.hide(reason)))

    async def _health(self) -> str | None:
        """Return why the server is gone; `None` if it works. All askers share one."""
        if self._checking is None:
            self._checking = asyncio.create_task(self._ask_health())
            self._checking.add_done_callback(self._checked)
        return await asyncio.shield(self._checking)

    def _checked(self, _: asyncio.Task[str | None]) -> None:
        self._checking = None

    async def _ask_health(self) -> str | None:
        reason = ""
        for attempt in range(HEALTH_TRIES):
            if attempt:
                await asyncio.sleep(HEALTH_PAUSE_S)
            try:
                response = await self._client.get(
                    self._health_path, timeout=HEALTH_TIMEOUT_S
                )
            except httpx.HTTPError as error:
                reason = f"{type(error).__name__}: {error}".rstrip(": ")
                continue
            if response.status_code < 500 or response.status_code == FULL:
                return None
            reason = failure_of(
                response.status_code, response.headers, response.content[:1000]
            ).message
        return f"its {self._health_path} fails: {reason}"


async def _cancel_others() -> None:
    """Cancel all tasks but the current one, and wait until they have ended."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    if others:
        await asyncio.wait(others, timeout=CLOSE_TIMEOUT_S / 2)


async def _drain(pieces: AsyncIterator[bytes]) -> None:
    """Read what is left of a response."""
    async for _ in pieces:
        pass


async def _beginning(response: httpx.Response) -> bytes:
    """Return the beginning of a body."""
    found = bytearray()
    async for piece in response.aiter_bytes():
        found += piece
        if len(found) > 4096:
            break
    return bytes(found)


def as_json(body: Mapping[str, Any]) -> bytes:
    """Return a body as JSON; infinity and NaN have no form in it."""
    return json.dumps(body, allow_nan=False, separators=(",", ":")).encode()
