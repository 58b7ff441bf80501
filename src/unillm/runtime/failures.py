# SPDX-License-Identifier: Apache-2.0

"""The errors that end requests, in words for their callers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import RequestFailedError, RequestTimeoutError

if TYPE_CHECKING:
    from ..outputs import RequestOutput
    from .handle import RequestHandle

CLOSED = (
    "The generator is closed. Create a new one; inside a `with` block, use it before "
    "the block ends."
)


def named(error: BaseException) -> str:
    """Return the class and the message of an error."""
    return f"{type(error).__name__}: {error}"


def failed_with(error: BaseException) -> str:
    """Return the message for the requests of an engine that raised."""
    lost = "All its requests are lost; create a new Generator."
    return f"The engine failed with {named(error)}. {lost}"


def failure(
    handle: RequestHandle, reason: str | None, cause: Exception | None = None
) -> RequestFailedError:
    """Return the error of one request that failed alone."""
    error = RequestFailedError(f"Request {handle.request_id} failed: {reason}")
    error.__cause__ = cause
    return error


def timed_out(output: RequestOutput) -> RequestTimeoutError:
    """Return the error of a request whose deadline has passed."""
    return RequestTimeoutError(
        f"Request {output.request_id} did not end within its timeout_s; what it had "
        "generated is in .output.",
        output=output,
    )
