# SPDX-License-Identifier: Apache-2.0

"""`Batch`: the requests of one call, started together and waited for together.

A prompt that is refused takes no other one with it. Whatever interrupts the waiting,
Ctrl-C and a cancelled task included, cancels the batch and nothing else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

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
from .handle import RequestHandle

OnError = Literal["raise", "return"]
"""What to do with the errors of single requests."""

UseTqdm = bool | Callable[..., Any]
"""Whether to show a bar, or what makes one: called as `tqdm` is."""


class Batch:
    """Requests in the caller's order, each a handle or the reason why there is none.

    Args:
        makers: One for each prompt: checks it and makes its handle.
        submit: Starts a request; may wait for room.
        on_error: "raise" all errors in one, or "return" each in its output's place.

    Raises:
        ConfigError: *on_error* is neither.
    """

    def __init__(
        self,
        makers: Sequence[Callable[[], RequestHandle]],
        *,
        submit: Callable[[RequestHandle], None],
        on_error: OnError,
    ) -> None:
        if on_error not in ("raise", "return"):
            raise ConfigError(
                f'on_error must be "raise" or "return", got {on_error!r}.'
            )
        self._makers = makers
        self._submit = submit
        self._on_error = on_error
        self._started: list[RequestHandle | Exception] = []
        self._cancelled = False

    def run(self, *, use_tqdm: UseTqdm) -> list[Any]:
        """Start all, wait for all, and return what became of them."""
        try:
            self._start()
            return self._sort_out([_outcome(each) for each in self._progress(use_tqdm)])
        except BaseException:
            self._cancel()
            raise

    async def arun(self) -> list[Any]:
        """Do the same without blocking the event loop, tokenising included."""
        import asyncio

        try:
            await asyncio.to_thread(self._start)
            return self._sort_out([await _awaited(each) for each in self._started])
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

    def _progress(self, use_tqdm: UseTqdm) -> Iterator[RequestHandle | Exception]:
        if not use_tqdm:
            return iter(self._started)
        return self._shown(use_tqdm)

    def _shown(self, use_tqdm: UseTqdm) -> Iterator[RequestHandle | Exception]:
        """Yield the requests as their outcome is asked for, with a bar of prompts."""
        from tqdm.auto import tqdm

        make = use_tqdm if callable(use_tqdm) else tqdm
        bar = make(
            total=len(self._started), desc="Processed prompts", dynamic_ncols=True
        )
        with contextlib.closing(bar):
            for each in self._started:
                yield each
                bar.update(1)

    def _sort_out(self, outcomes: list[RequestOutput | Exception]) -> list[Any]:
        errors = {
            index: outcome
            for index, outcome in enumerate(outcomes)
            if isinstance(outcome, Exception)
        }
        for index, error in errors.items():
            if isinstance(error, RequestError):
                error.prompt_index = index
        if not errors or self._on_error == "return":
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


async def _awaited(entry: RequestHandle | Exception) -> RequestOutput | Exception:
    if isinstance(entry, Exception):
        return entry
    try:
        return await entry
    except UnillmError as error:
        return error
