# SPDX-License-Identifier: Apache-2.0

"""`ListCall`: the requests of one call, submitted and awaited together.

A refused prompt fails alone. Whatever interrupts the waiting, Ctrl-C and a cancelled
task included, cancels the requests of the call and no others.
"""

from __future__ import annotations

import contextlib
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TextIO

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
from .cut_notice import CutNotice
from .handle import RequestHandle


class ListCall:
    """Requests in the caller's order, each a handle or the error that refused it.

    Args:
        makers: One function for each prompt, which checks it and makes its handle.
        submit: Starts a request; may block while the queue is full.
        notice: Looks at each ended request.
    """

    def __init__(
        self,
        makers: Iterable[Callable[[], RequestHandle]],
        *,
        submit: Callable[[RequestHandle], None],
        notice: CutNotice,
    ) -> None:
        self._makers = makers
        self._submit = submit
        self._notice = notice
        # Those whose outcome is not read yet: a read request frees its memory.
        self._started: deque[RequestHandle | Exception] = deque()
        self._cancelled = False

    def run(self, on_error: OnError, *, use_tqdm: UseTqdm) -> list[Any]:
        """Submit all requests, wait for them, and return their outputs.

        Args:
            on_error: "raise" one error for all failed requests, or "return" each error
                at the index of its prompt.
            use_tqdm: Show a progress bar, or a callable that makes one; `None` shows
                one for several prompts if standard error is a terminal.
        """
        check_on_error(on_error)
        try:
            self._start()
            return _sort_out(list(self._shown(use_tqdm)), on_error)
        except BaseException:
            self._cancel()
            raise

    async def arun(self, on_error: OnError) -> list[Any]:
        """Do the same in an event loop; the prompts are tokenised in a thread."""
        import asyncio

        check_on_error(on_error)
        try:
            await asyncio.to_thread(self._start)
            for each in self._started:
                if isinstance(each, RequestHandle):
                    with contextlib.suppress(UnillmError):  # `outcome_of` returns it
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
            entry = self._started[0]
            yield outcome_of(entry)
            self._started.popleft()
            if isinstance(entry, RequestHandle):
                self._notice.look(entry)

    def _shown(self, use_tqdm: UseTqdm) -> Iterator[RequestOutput | Exception]:
        """Yield the outcomes, and move a progress bar with them."""
        if use_tqdm is None:
            use_tqdm = len(self._started) > 1 and _is_terminal(sys.stderr)
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


def _is_terminal(stream: TextIO | None) -> bool:
    # A program without a console has no standard error.
    return stream is not None and stream.isatty()


def check_on_error(on_error: OnError) -> None:
    """Raise `ConfigError` for a value that does not exist."""
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


def outcome_of(entry: RequestHandle | Exception) -> RequestOutput | Exception:
    """Wait for the end of a request; return its output, or the error that ended it."""
    if isinstance(entry, Exception):
        return entry
    try:
        return entry.result()
    except UnillmError as error:
        return error
