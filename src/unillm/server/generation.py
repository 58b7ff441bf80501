# SPDX-License-Identifier: Apache-2.0

"""Endpoints that generate: completions and chats.

A request is checked and queued before the status line of its response, so a bad one is
never a stream that begins with 200.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from ..errors import RequestCancelledError, RequestTimeoutError, UnillmError
from ..metrics.served import Served
from ..protocol.bodies import SamplingBody
from ..protocol.endpoints import Chats, Completions, Endpoint, Responses
from ..protocol.errors import error_reply
from ..protocol.writer import Writer
from .responses import EventStream, cancelling, json_response
from .service import IGNORED, Service
from .traces import Trace

if TYPE_CHECKING:
    from .. import CompletionDelta, RequestHandle, SamplingParams

log = logging.getLogger("unillm.server")


class Generation:
    """The endpoints of one server."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def completions(self, request: Request) -> Response:
        """Serve ``POST /v1/completions``."""
        return await self._serve(request, Completions)

    async def chat(self, request: Request) -> Response:
        """Serve ``POST /v1/chat/completions``."""
        return await self._serve(request, Chats)

    async def responses(self, request: Request) -> Response:
        """Serve ``POST /v1/responses``."""
        return await self._serve(request, Responses)

    async def _serve(self, request: Request, kind: type[Endpoint]) -> Response:
        raw, settings = await self._service.raw(request), self._service.settings
        # A malformed body is refused while the model is being loaded, too.
        asked = kind(raw, settings)
        generator = self._service.serving.generator()
        params = asked.params(self._service.default_params())
        prompts = asked.prompts(generator)
        handles = await self._submit(request, asked.body, params, prompts)
        answering = settings.answering(
            asked.body,
            params,
            request_id=request.state.request_id,
            created=int(time.time()),
            model=self._service.models.find(asked.body.model).name,
        )
        writer = asked.writer(answering, params, handles, generator)
        return await self._respond(request, asked, writer, handles, params)

    async def _submit(
        self,
        request: Request,
        body: SamplingBody,
        params: SamplingParams,
        prepared: Callable[[], list[Any]],
    ) -> list[RequestHandle]:
        """Check and queue all prompts of a request, or none."""
        served = self._service.models.find(body.model)
        generator = self._service.serving.generator()
        handles: list[RequestHandle] = []

        def submit() -> None:
            for prompt in prepared():
                handle = generator.submit(
                    prompt,
                    params,
                    lora_request=served.adapter,
                    priority=body.priority or 0,
                    timeout_s=body.timeout_s,
                )
                handles.append(handle)

        try:
            # Tokenizing and chat templates take their time.
            await asyncio.to_thread(submit)
        except BaseException:
            _cancel(handles)
            raise
        shadow = self._service.shadow
        if shadow is not None and served.adapter is None:
            shadow.follow(request.state.request_id, handles, params)
        return handles

    async def _respond(
        self,
        request: Request,
        asked: Endpoint,
        writer: Writer,
        handles: Sequence[RequestHandle],
        params: SamplingParams,
    ) -> Response:
        settings = self._service.settings
        self._service.activity.add(request.state.request_id, handles)
        model = self._service.models.find(asked.body.model).name
        served = self._service.served[model]
        trace = Trace(
            operation="text_completion" if asked.path == Completions.path else "chat",
            model=model,
            headers=request.headers,
            params=params,
            request_id=request.state.request_id,
        )
        headers = {IGNORED: ", ".join(asked.ignored)} if asked.ignored else {}
        if asked.body.stream:
            return EventStream(
                _events(writer, handles, served, trace),
                cancel=lambda: _cancel(handles),
                keep_alive_s=settings.sse_keep_alive_interval,
                headers=headers,
            )
        try:
            async with cancelling(request.receive, lambda: _cancel(handles)):
                outputs = [await handle for handle in handles]
        finally:
            _count(handles, served, trace)
        return json_response(writer.whole(outputs), headers)


def _cancel(handles: Sequence[RequestHandle]) -> None:
    for handle in handles:
        handle.cancel()


def _count(handles: Sequence[RequestHandle], served: Served, trace: Trace) -> None:
    """Count and trace requests that have ended; none of them goes on."""
    now, failure = time.monotonic(), None
    for handle in handles:
        handle.cancel()
        failed = False
        try:
            handle.result(0)
        except UnillmError as error:
            failure = type(error).__name__
            failed = not isinstance(error, (RequestCancelledError, RequestTimeoutError))
        served.ended(handle.output(), now, failed=failed)
    trace.end(handles, failure)


async def _events(
    writer: Writer, handles: Sequence[RequestHandle], served: Served, trace: Trace
) -> AsyncGenerator[bytes, None]:
    """Yield the events of a stream; an error is its last event."""
    last_at: dict[tuple[int, int], float] = {}

    def observe(prompt: int, delta: CompletionDelta) -> None:
        now, key = time.monotonic(), (prompt, delta.index)
        before, count = last_at.get(key), len(delta.token_ids)
        last_at[key] = now
        if before is not None and count:
            served.between_tokens.observe((now - before) / count, count)

    try:
        yield writer.begin()
        if len(handles) == 1:
            so_far = handles[0].output
            async for delta in handles[0]:
                observe(0, delta)
                yield writer.delta(0, _without_abort(delta), so_far)
        else:
            async for index, delta in _merged(handles):
                observe(index, delta)
                yield writer.delta(index, _without_abort(delta), handles[index].output)
        yield writer.end([handle.output() for handle in handles])
    except UnillmError as error:
        yield writer.fail(error_reply(error))
    except Exception as error:
        log.exception("a stream failed")
        yield writer.fail(error_reply(error))
    finally:
        _count(handles, served, trace)


def _without_abort(delta: CompletionDelta) -> CompletionDelta:
    """Return the delta without a reason that clients do not know; an error follows."""
    if delta.finish_reason in ("abort", "error"):
        return dataclasses.replace(delta, finish_reason=None)
    return delta


async def _merged(
    handles: Sequence[RequestHandle],
) -> AsyncGenerator[tuple[int, CompletionDelta], None]:
    """Yield the deltas of several requests as they come, with the request's index."""
    queue: asyncio.Queue[tuple[int, CompletionDelta | Exception | None]] = (
        asyncio.Queue(1)
    )

    async def pump(index: int, handle: RequestHandle) -> None:
        try:
            async for delta in handle:
                await queue.put((index, delta))
            await queue.put((index, None))
        except UnillmError as error:
            await queue.put((index, error))

    tasks = [asyncio.create_task(pump(*each)) for each in enumerate(handles)]
    try:
        running = len(tasks)
        while running:
            index, news = await queue.get()
            if isinstance(news, Exception):
                raise news
            if news is None:
                running -= 1
            else:
                yield index, news
    finally:
        for task in tasks:
            task.cancel()
