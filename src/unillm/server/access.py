# SPDX-License-Identifier: Apache-2.0

"""Middleware around every endpoint: API keys, and the id of each request."""

from __future__ import annotations

import base64
import binascii
import hmac
import re
import uuid
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..protocol.errors import ErrorReply
from .responses import error_response

OPEN_PATHS = frozenset({"/health"})
"""Paths that need no key."""

REQUEST_ID = "x-request-id"
_VALID_ID = re.compile(r"[!-~]{1,128}")


class RequestIds:
    """Takes ``X-Request-Id`` from the request, or makes one, and echoes it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(REQUEST_ID, "")
        request_id = given if _VALID_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID] = request_id
                headers["x-content-type-options"] = "nosniff"
            await send(message)

        await self._app(scope, receive, send_with_id)


class ApiKeys:
    """Refuses requests without one of the keys, but for `OPEN_PATHS`.

    A key comes as ``Authorization: Bearer KEY``; or as the password of ``Basic``, which
    a browser asks for.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self._app = app
        self._keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and not self._may(scope):
            await _unauthorized()(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _may(self, scope: Scope) -> bool:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if path in OPEN_PATHS:
            return True
        given = _key_of(Headers(scope=scope).get("authorization", ""))
        # All keys are compared, each in constant time.
        return sum(hmac.compare_digest(given, key) for key in self._keys) > 0


def _key_of(authorization: str) -> bytes:
    kind, _, value = authorization.partition(" ")
    value = value.strip()
    if kind.lower() == "bearer":
        return value.encode("latin-1")
    if kind.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            return b""
    return b""


def _unauthorized() -> Response:
    reply = ErrorReply(
        401,
        "This server needs an API key: Authorization: Bearer KEY.",
        code="invalid_api_key",
        # Chromium reads one challenge a line, and it is a browser that needs one.
        headers={"www-authenticate": 'Basic realm="unillm"'},
    )
    return error_response(reply)
