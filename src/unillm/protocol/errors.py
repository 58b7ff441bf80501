# SPDX-License-Identifier: Apache-2.0

"""Errors as OpenAI's clients read them: a status, a type, a code and the parameter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
import msgspec

from .. import errors

RETRY_AFTER_S = 1
"""Seconds after which a refused request is worth another try."""

_NAMES = {"lora_request": "model", "json": "response_format", "params": None}
"""Parameters of the Python API that a body calls otherwise; `None` for no field."""

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class ErrorObject(msgspec.Struct):
    """An error of OpenAI's API."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(msgspec.Struct):
    """Body of an answer that is an error."""

    error: ErrorObject


@attrs.frozen
class ErrorReply:
    """An answer that is an error."""

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    retry: bool | None = None
    """Whether the same request may succeed later; `None` leaves it to the client."""
    headers: Mapping[str, str] = attrs.field(factory=dict)

    @property
    def type(self) -> str:
        """OpenAI's class of error."""
        kind = _TYPES.get(self.status)
        return kind or (
            "server_error" if self.status >= 500 else "invalid_request_error"
        )

    def body(self) -> ErrorBody:
        """Return the body."""
        return ErrorBody(ErrorObject(self.message, self.type, self.param, self.code))

    def event(self) -> bytes:
        """Return the body as an event of a stream."""
        return b"data: " + msgspec.json.encode(self.body()) + b"\n\n"


class ApiError(Exception):
    """An error that has no class of its own in unillm, such as an unknown model."""

    def __init__(self, reply: ErrorReply) -> None:
        super().__init__(reply.message)
        self.reply = reply


def unknown_model(name: str, served: list[str]) -> ApiError:
    """Return the error for a model that is not served."""
    return ApiError(
        ErrorReply(
            404,
            f"The model {name!r} does not exist. Known: {', '.join(served)}.",
            param="model",
            code="model_not_found",
        )
    )


def unavailable(message: str, *, code: str) -> ApiError:
    """Return the error of a server that cannot generate now."""
    return ApiError(
        ErrorReply(
            503,
            message,
            code=code,
            retry=True,
            headers={"retry-after": str(RETRY_AFTER_S)},
        )
    )


def error_reply(error: BaseException) -> ErrorReply:
    """Return the reply for an exception that a request raised."""
    if isinstance(error, ApiError):
        return error.reply
    make = next((make for kind, make in _REPLIES if isinstance(error, kind)), _internal)
    return make(error)


def _invalid_parameter(error: Any) -> ErrorReply:
    unsupported = isinstance(error, errors.UnsupportedParameterError)
    return ErrorReply(
        400,
        str(error),
        param=_NAMES.get(error.parameter, error.parameter),
        code="unsupported_parameter" if unsupported else None,
    )


def _full(error: Any) -> ErrorReply:
    headers = {"retry-after": str(RETRY_AFTER_S)}
    return ErrorReply(429, str(error), code="queue_full", retry=True, headers=headers)


def _later(code: str) -> Callable[[Any], ErrorReply]:
    return lambda error: unavailable(str(error), code=code).reply


def _final(status: int, code: str | None = None) -> Callable[[Any], ErrorReply]:
    """Return a maker of replies to requests that would fail again."""
    retry = None if status == 400 else False
    return lambda error: ErrorReply(status, str(error), code=code, retry=retry)


def _internal(error: Any) -> ErrorReply:
    return ErrorReply(
        500, f"Internal error: {type(error).__name__}.", code="internal", retry=False
    )


_REPLIES: tuple[tuple[type[Exception], Callable[[Any], ErrorReply]], ...] = (
    (errors.PromptTooLongError, _final(400, "context_length_exceeded")),
    (errors.InvalidParameterError, _invalid_parameter),
    (errors.QueueFullError, _full),
    (errors.RequestTimeoutError, _final(408, "timeout")),
    (errors.RequestCancelledError, _final(499, "cancelled")),
    (errors.RequestFailedError, _final(500, "request_failed")),
    (errors.RequestError, _final(400)),
    (errors.ChatTemplateError, _final(400)),
    (errors.EngineError, _later("engine_dead")),
    (errors.GeneratorClosedError, _later("shutting_down")),
)
"""The first class of which an error is an instance decides."""
