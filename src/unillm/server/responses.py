# SPDX-License-Identifier: Apache-2.0

"""Responses: bodies as JSON, errors, and streams of events."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from ..protocol.errors import ApiError, ErrorReply

KEEP_ALIVE = b": keep-alive\n\n"
"""A comment, which clients skip; it keeps proxies from closing the connection."""

Cancel = Callable[[], None]


def json_response(value: Any, headers: Mapping[str, str] | None = None) -> Response:
    """Return a value as JSON."""
    return Response(
        msgspec.json.encode(value), media_type="application/json", headers=headers
    )


def error_response(reply: ErrorReply) -> Response:
    """Return an error in OpenAI's form."""
    headers = dict(reply.headers)
    if reply.retry is not None:
        headers["x-should-retry"] = "true" if reply.retry else "false"
    return Response(
        msgspec.json.encode(reply.body()),
        status_code=reply.status,
        media_type="application/json",
        headers=headers,
    )


@contextlib.asynccontextmanager
async def cancelling(receive: Receive, cancel: Cancel) -> AsyncIterator[None]:
    """Call *cancel* as soon as the client has left, and whenever the block ends."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        cancel()

    task = asyncio.create_task(watch())
    try:
        yield
    finally:
        task.cancel()
        cancel()


class EventStream(Response):
    """A stream of events, with comments while there are none.

    Args:
        events: Yields bytes of whole events. It is closed at the end.
        cancel: Ends the work behind the events; called when the client leaves.
        keep_alive_s: Seconds without an event after which a comment is sent; 0 for
            never.
        headers: Further headers.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        *,
        cancel: Cancel,
        keep_alive_s: float,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status_code = 200
        self.background = None
        self._events = events
        self._cancel = cancel
        self._keep_alive_s = keep_alive_s
        self._sending = False
        self._sent_at = 0.0
        fixed = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        self.init_headers({**fixed, **(headers or {})})

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with cancelling(receive, self._cancel):
            beat = asyncio.create_task(self._beat(send))
            try:
                await self._write(send)
            finally:
                beat.cancel()
                await self._events.aclose()

    async def _write(self, send: Send) -> None:
        headers = self.raw_headers
        start = {"type": "http.response.start", "status": 200, "headers": headers}
        await send(start)
        async for events in self._events:
            if events:
                self._sending = True  # waits here while the client takes nothing
                body = {"type": "http.response.body", "body": events, "more_body": True}
                await send(body)
                self._sending = False
                self._sent_at = time.monotonic()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _beat(self, send: Send) -> None:
        """Send a comment in each interval without an event."""
        while self._keep_alive_s:
            await asyncio.sleep(self._keep_alive_s)
            if self._sending or time.monotonic() - self._sent_at < self._keep_alive_s:
                continue
            comment = {"type": "http.response.body", "body": KEEP_ALIVE}
            await send({**comment, "more_body": True})


async def read_body(request: Request, *, limit: int, timeout_s: float) -> bytes:
    """Return the body of a request.

    Raises:
        ApiError: The body is longer than *limit* bytes, of another content type, or did
            not arrive in time.
        ClientDisconnect: The client left before the end.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(
            ErrorReply(
                400,
                f"The content type must be application/json, got {kind or 'none'!r}.",
            )
        )
    too_large = ApiError(
        ErrorReply(
            413,
            f"The body has more than {limit} bytes, the limit of this server "
            "(--max-body-bytes).",
            headers={"connection": "close"},
        )
    )
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit:
        raise too_large
    try:
        return await asyncio.wait_for(_joined(request, limit, too_large), timeout_s)
    except asyncio.TimeoutError:
        raise ApiError(
            ErrorReply(
                408,
                f"The body did not arrive within {timeout_s:g} s.",
                headers={"connection": "close"},
            )
        ) from None


async def _joined(request: Request, limit: int, too_large: ApiError) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > limit:
            raise too_large
    return bytes(body)
