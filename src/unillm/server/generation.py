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
from ..protocol.bodies import ChatBody, CompletionBody, SamplingBody
from ..protocol.chat import ChatWriter, chat_prompt
from ..protocol.completions import CompletionWriter, completion_prompts
from ..protocol.errors import error_reply
from ..protocol.parts import PartReader, ReasoningThenCalls
from ..protocol.reading import Read
from ..protocol.reasoning import REASONING_READERS
from ..protocol.responses import ResponseWriter
from ..protocol.responses_body import ResponsesBody, as_chat
from ..protocol.sampling import chat_params, completion_params
from ..protocol.tool_calls import call_reader, check_tools
from ..protocol.writer import Answering, Writer
from .responses import EventStream, cancelling, json_response
from .service import IGNORED, Service
from .traces import Trace

if TYPE_CHECKING:
    from .. import CompletionDelta, Generator, RequestHandle, SamplingParams

log = logging.getLogger("unillm.server")

_PROMPT_END = 32
"""Tokens at the end of a prompt in which its template may open the reasoning."""


_TEXTS = "/v1/completions"


class Generation:
    """The endpoints of one server."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def completions(self, request: Request) -> Response:
        """Serve ``POST /v1/completions``."""
        read = await self._service.read(request, CompletionBody)
        body = read.body
        generator = self._service.serving.generator()
        params = completion_params(body, self._service.default_params())
        prompts = completion_prompts(body)

        def prepared() -> list[Any]:
            if body.add_special_tokens is not False:
                return prompts
            return [_without_special_tokens(generator, prompt) for prompt in prompts]

        handles = await self._submit(request, body, params, prepared)

        def text_of(handle: RequestHandle) -> str:
            if not body.echo:
                return ""  # never shown
            return handle.prompt or generator.detokenize(handle.prompt_token_ids)

        writer = CompletionWriter(
            self._answering(request, body, params),
            body,
            prompts=[(text_of(each), each.prompt_token_ids) for each in handles],
            decode=generator.detokenize,
        )
        return await self._respond(request, read, writer, handles, params)

    async def chat(self, request: Request) -> Response:
        """Serve ``POST /v1/chat/completions``."""
        read = await self._service.read(request, ChatBody)
        body, settings = read.body, self._service.settings
        generator = self._service.serving.generator()
        check_tools(body, parser=settings.tool_call_parser)
        params = chat_params(body, self._service.default_params())
        prompt = chat_prompt(body, trust_templates=settings.trust_request_chat_template)

        def prepared() -> list[Any]:
            if not body.add_special_tokens:
                return [prompt]
            ids = generator.tokenize(prompt, add_special_tokens=True)
            return [{"prompt_token_ids": ids}]

        handles = await self._submit(request, body, params, prepared)
        writer = ChatWriter(
            self._answering(request, body, params),
            body,
            prompt_token_ids=handles[0].prompt_token_ids,
            make_reader=self._reader(body, params, handles[0]),
        )
        return await self._respond(request, read, writer, handles, params)

    async def responses(self, request: Request) -> Response:
        """Serve ``POST /v1/responses``."""
        read = await self._service.read(request, ResponsesBody)
        chat = as_chat(read.body)
        check_tools(chat, parser=self._service.settings.tool_call_parser)
        params = chat_params(chat, self._service.default_params())
        prompt = chat_prompt(chat, trust_templates=False)
        handles = await self._submit(request, chat, params, lambda: [prompt])
        writer = ResponseWriter(
            self._answering(request, chat, params),
            read.body,
            chat=chat,
            params=params,
            reader=self._reader(chat, params, handles[0])(),
        )
        return await self._respond(request, read, writer, handles, params)

    def _reader(
        self, body: ChatBody, params: SamplingParams, handle: RequestHandle
    ) -> Callable[[], PartReader]:
        """Return a function that makes the reader of one answer."""
        settings = self._service.settings
        parser = settings.tool_call_parser
        # A constraint holds from the first token, so it leaves no room for reasoning.
        if settings.reasoning_parser is None or params.structured_outputs is not None:
            return lambda: call_reader(body, parser=parser)
        split = REASONING_READERS[settings.reasoning_parser]
        last_ids = handle.prompt_token_ids[-_PROMPT_END:]
        prompt_end = self._service.serving.generator().detokenize(last_ids)
        return lambda: ReasoningThenCalls(
            split(prompt_end), call_reader(body, parser=parser)
        )

    def _answering(
        self, request: Request, body: SamplingBody, params: SamplingParams
    ) -> Answering:
        settings = self._service.settings
        return Answering(
            request_id=body.request_id or request.state.request_id,
            created=int(time.time()),
            model=self._service.models.find(body.model).name,
            num_choices=params.n,
            cached_tokens=settings.enable_prompt_tokens_details,
            always_usage=settings.enable_force_include_usage,
            role=settings.response_role,
            tokens_as_ids=settings.return_tokens_as_token_ids,
        )

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
        read: Read[Any],
        writer: Writer,
        handles: Sequence[RequestHandle],
        params: SamplingParams,
    ) -> Response:
        settings = self._service.settings
        self._service.activity.add(request.state.request_id, handles)
        model = self._service.models.find(read.body.model).name
        served = self._service.served[model]
        trace = Trace(
            operation="text_completion" if request.url.path == _TEXTS else "chat",
            model=model,
            headers=request.headers,
            params=params,
            request_id=request.state.request_id,
        )
        headers = {IGNORED: ", ".join(read.ignored)} if read.ignored else {}
        if read.body.stream:
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


def _without_special_tokens(generator: Generator, prompt: Any) -> Any:
    if not isinstance(prompt, str):
        return prompt
    ids = generator.tokenize(prompt, add_special_tokens=False)
    return {"prompt_token_ids": ids, "prompt": prompt}


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
