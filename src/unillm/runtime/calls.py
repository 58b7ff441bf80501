# SPDX-License-Identifier: Apache-2.0

"""`ListCall`: the requests of one call, submitted and awaited together.

A refused prompt fails alone. Whatever interrupts the waiting, Ctrl-C and a cancelled
task included, cancels the requests of the call and no others.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ..errors import (
    ConfigError,
    EngineError,
    GeneratorClosedError,
    RequestError,
    RequestsFailedError,
    RequestsRefusedError,
    UnillmError,
)
from ..outputs import RequestOutput
from .arguments import OnError, UseTqdm
from .handle import RequestHandle


class ListCall:
    """Requests in the caller's order, each a handle or the error that refused it.

    Args:
        makers: One function for each prompt, which checks it and makes its handle.
        submit: Starts a request; may block while the queue is full.
    """

    def __init__(
        self,
        makers: Iterable[Callable[[], RequestHandle]],
        *,
        submit: Callable[[RequestHandle], None],
    ) -> None:
        self._makers = makers
        self._submit = submit
        # Those whose outcome is not read yet: a read request frees its memory.
        self._started: deque[RequestHandle | Exception] = deque()
        self._cancelled = False

    def run(self, on_error: OnError, *, use_tqdm: UseTqdm) -> list[Any]:
        """Submit all requests, wait for them, and return their outputs.

        Args:
            on_error: "raise" one error for all failed requests, or "return" each error
                at the index of its prompt.
            use_tqdm: Show a progress bar, or a callable that makes one.
        """
        _check(on_error)
        try:
            self._start()
            return _sort_out(list(self._shown(use_tqdm)), on_error)
        except BaseException:
            self._cancel()
            raise

    async def arun(self, on_error: OnError) -> list[Any]:
        """Do the same in an event loop; the prompts are tokenised in a thread."""
        import asyncio

        _check(on_error)
        try:
            await asyncio.to_thread(self._start)
            for each in self._started:
                if isinstance(each, RequestHandle):
                    with contextlib.suppress(UnillmError):  # `_outcome` returns it
                        await each
            return _sort_out(list(self._outcomes()), on_error)
        except BaseException:
            self._cancel()
            raise

    def _start(self) -> None:
        for make in self._makers:
            try:
                handle = make()
            except UnillmError as error:
                self._started.append(error)
                continue
            self._started.append(handle)
            self._submit(handle)
            if self._cancelled:  # by the event loop, while this thread was at work
                handle.cancel()
                return

    def _cancel(self) -> None:
        self._cancelled = True
        for entry in list(self._started):
            if isinstance(entry, RequestHandle):
                entry.cancel()

    def _outcomes(self) -> Iterator[RequestOutput | Exception]:
        while self._started:
            yield _outcome(self._started[0])
            self._started.popleft()

    def _shown(self, use_tqdm: UseTqdm) -> Iterator[RequestOutput | Exception]:
        """Yield the outcomes, and move a progress bar with them."""
        if not use_tqdm:
            yield from self._outcomes()
            return
        from tqdm.auto import tqdm

        make = use_tqdm if callable(use_tqdm) else tqdm
        bar = make(
            total=len(self._started), desc="Processed prompts", dynamic_ncols=True
        )
        with contextlib.closing(bar):
            for outcome in self._outcomes():
                yield outcome
                bar.update(1)


def _check(on_error: OnError) -> None:
    if not isinstance(on_error, str) or on_error not in ("raise", "return"):
        raise ConfigError(f'on_error must be "raise" or "return", got {on_error!r}.')


def _sort_out(
    outcomes: list[RequestOutput | Exception], on_error: OnError
) -> list[Any]:
    errors = {
        index: outcome
        for index, outcome in enumerate(outcomes)
        if isinstance(outcome, Exception)
    }
    for index, error in errors.items():
        if isinstance(error, RequestError):
            error.prompt_index = index
    if not errors or on_error == "return":
        return outcomes
    first = next(iter(errors.values()))
    if len(outcomes) == 1 or isinstance(first, (EngineError, GeneratorClosedError)):
        raise first
    refused = all(isinstance(error, ValueError) for error in errors.values())
    kind = RequestsRefusedError if refused else RequestsFailedError
    raise kind(errors, [None if isinstance(o, Exception) else o for o in outcomes])


def _outcome(entry: RequestHandle | Exception) -> RequestOutput | Exception:
    if isinstance(entry, Exception):
        return entry
    try:
        return entry.result()
    except UnillmError as error:
        return error
