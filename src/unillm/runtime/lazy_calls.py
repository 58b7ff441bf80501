# SPDX-License-Identifier: Apache-2.0

"""`LazyCall`: the requests of prompts that are read while answers are yielded.

At most `max_pending` requests are under way, so memory is bounded for any number of
prompts. Whatever ends the loop early, an error included, cancels those requests and no
others.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from queue import Empty, SimpleQueue
from typing import Any

from ..errors import InvalidParameterError, RequestError, UnillmError
from ..outputs import RequestOutput
from .arguments import OnError
from .calls import outcome_of
from .cut_notice import CutNotice
from .handle import RequestHandle

Outcome = RequestOutput | Exception


class LazyCall:
    """Requests that are made as they are needed.

    Args:
        makers: One function for each prompt, which checks it and makes its handle.
        submit: Starts a request; may block while the queue is full.
        notice: Looks at each ended request.
        max_pending: Requests that are submitted and not yet yielded, at most.
        on_error: "raise" the first error, or "return" each in its output's place.
    """

    def __init__(
        self,
        makers: Iterable[Callable[[], RequestHandle]],
        *,
        submit: Callable[[RequestHandle], None],
        notice: CutNotice,
        max_pending: int,
        on_error: OnError,
    ) -> None:
        self._makers = makers
        self._submit = submit
        self._notice = notice
        self._max_pending = max_pending
        self._on_error = on_error

    def in_order(self) -> Iterator[Outcome]:
        """Yield the outcomes in the order of the prompts."""
        pending: deque[tuple[int, RequestHandle | Exception]] = deque()
        try:
            for started in self._started():
                pending.append(started)
                while pending and (
                    len(pending) >= self._max_pending or _is_done(pending[0][1])
                ):
                    yield self._outcome(*pending[0])
                    pending.popleft()
            while pending:
                yield self._outcome(*pending[0])
                pending.popleft()
        finally:
            _leave(entry for _, entry in pending)

    def as_completed(self) -> Iterator[tuple[int, Outcome]]:
        """Yield each outcome with the index of its prompt as soon as there is one."""
        ended: SimpleQueue[RequestHandle] = SimpleQueue()
        pending: dict[RequestHandle, int] = {}

        def next_ended(*, block: bool) -> RequestHandle | None:
            if block:
                next(iter(pending)).done()  # raises in a forked child, where none ends
            try:
                return ended.get(block)
            except Empty:
                return None

        try:
            for index, started in self._started():
                if isinstance(started, Exception):
                    yield index, self._outcome(index, started)
                    continue
                pending[started] = index
                started.add_done_callback(ended.put)
                while pending and (
                    handle := next_ended(block=len(pending) >= self._max_pending)
                ):
                    yield pending[handle], self._outcome(pending.pop(handle), handle)
            while pending:
                handle = next_ended(block=True)
                assert handle is not None
                yield pending[handle], self._outcome(pending.pop(handle), handle)
        finally:
            _leave(pending)

    def _started(self) -> Iterator[tuple[int, RequestHandle | Exception]]:
        for index, make in enumerate(self._makers):
            try:
                handle = make()
            except UnillmError as error:
                yield index, error
                continue
            self._submit(handle)
            yield index, handle

    def _outcome(self, index: int, entry: RequestHandle | Exception) -> Outcome:
        outcome = outcome_of(entry)
        if isinstance(outcome, Exception):
            if isinstance(outcome, RequestError):
                outcome.prompt_index = index
            if self._on_error == "raise":
                raise outcome
        elif isinstance(entry, RequestHandle):
            self._notice.look(entry)
        return outcome


def _is_done(entry: RequestHandle | Exception) -> bool:
    return isinstance(entry, Exception) or entry.done()


def _leave(entries: Iterable[RequestHandle | Exception]) -> None:
    for entry in entries:
        if isinstance(entry, RequestHandle):
            entry.leave()


def are_for_all(params: Any) -> bool:
    """Whether params are those of all prompts, and no iterable with one for each."""
    one = isinstance(params, (str, bytes, Mapping)) or not isinstance(params, Iterable)
    return one or getattr(params, "ndim", 1) == 0  # an array of one value


def params_of_each(params: Any) -> Iterator[Any]:
    """Yield the params of each prompt: the same ones, or those of an iterable.

    Raises:
        InvalidParameterError: The iterable has fewer params than there are prompts.
    """
    if are_for_all(params):
        yield from itertools.repeat(params)
    count = 0
    for count, own in enumerate(params, 1):  # noqa: B007 - the message has it
        yield own
    raise InvalidParameterError(
        f"There are more prompts than the {count} params. Pass one for all prompts, or "
        "one for each.",
        parameter="params",
        value=count,
    )
