# SPDX-License-Identifier: Apache-2.0

"""Streams of one request, for a loop that owns it: leaving the loop cancels it.

The request is submitted before the stream is made. So its end cancels the request also
where the caller never began to read.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Coroutine, Iterator
from typing import Any

from typing_extensions import Self

from ..outputs import CompletionDelta
from .cut_notice import CutNotice
from .handle import RequestHandle


class DeltaStream(Iterator[CompletionDelta]):
    """The deltas of a request. `close`, or Python's collector, cancels the request.

    Attributes:
        handle: The request, for its id, its prompt and its output so far.
    """

    def __init__(self, handle: RequestHandle, notice: CutNotice) -> None:
        self.handle = handle
        self._notice = notice
        self._deltas = iter(handle)

    def __next__(self) -> CompletionDelta:
        try:
            return next(self._deltas)
        except StopIteration:
            self._notice.look(self.handle)
            raise
        except BaseException:
            self.handle.leave()
            raise

    def close(self) -> None:
        """Cancel the request, unless it has ended."""
        self.handle.leave()
        self._deltas = iter(())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.handle.leave()


class AsyncDeltaStream(AsyncGenerator[CompletionDelta, None]):
    """The deltas of a request in an event loop.

    `aclose`, or Python's collector, cancels the request.

    Attributes:
        handle: The request, for its id, its prompt and its output so far.
    """

    def __init__(self, handle: RequestHandle, notice: CutNotice) -> None:
        self.handle = handle
        self._notice = notice
        self._deltas: Any = handle.__aiter__()

    def __anext__(self) -> Coroutine[Any, Any, CompletionDelta]:
        return self.asend(None)

    async def asend(self, value: None) -> CompletionDelta:
        """Return the next delta."""
        try:
            return await self._deltas.asend(value)  # type: ignore[no-any-return]
        except StopAsyncIteration:
            self._notice.look(self.handle)
            raise
        except BaseException:
            self.handle.leave()
            raise

    async def athrow(self, *error: Any) -> CompletionDelta:
        """Cancel the request, and raise the error at the place that was reached."""
        self.handle.leave()
        return await self._deltas.athrow(*error)  # type: ignore[no-any-return]

    async def aclose(self) -> None:
        """Cancel the request, unless it has ended."""
        self.handle.leave()
        await self._deltas.aclose()

    def __del__(self) -> None:
        self.handle.leave()
