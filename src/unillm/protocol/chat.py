# SPDX-License-Identifier: Apache-2.0

"""``/v1/chat/completions``: the prompt of a body, and outputs as messages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType
from typing_extensions import override

from ..errors import InvalidParameterError, UnsupportedParameterError
from ..outputs import CompletionDelta, CompletionOutput, RequestOutput
from .bodies import ChatBody, TokenizeBody, plain
from .parts import FunctionCallPart, PartReader, Parts, PlainReader, ToolCallPart
from .tokens import ChatLogprobs, chat_logprobs, prompt_logprobs_json
from .writer import Answering, ChunkWriter, Usage, event, or_unset

FinishReason = Literal["stop", "length", "tool_calls"]


class FunctionCall(Struct, kw_only=True):
    """A called function; its arguments are JSON text."""

    name: str
    arguments: str


class ToolCall(Struct, kw_only=True):
    """A call of a tool."""

    id: str
    function: FunctionCall
    type: Literal["function"] = "function"


class Message(Struct, kw_only=True):
    """The answer."""

    content: str | None
    role: str = "assistant"
    refusal: None = None
    reasoning: str | UnsetType = UNSET
    tool_calls: list[ToolCall] | UnsetType = UNSET


class ChatChoice(Struct, kw_only=True):
    """One answer."""

    index: int
    message: Message
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason
    stop_reason: int | str | None = None
    token_ids: list[int] | UnsetType = UNSET


class ChatCompletion(Struct, kw_only=True):
    """Body of the answer."""

    id: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    object: Literal["chat.completion"] = "chat.completion"
    prompt_token_ids: list[int] | UnsetType = UNSET
    prompt_logprobs: list[Any] | UnsetType = UNSET


class Delta(Struct, kw_only=True):
    """New parts of an answer."""

    role: str | UnsetType = UNSET
    content: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET
    tool_calls: list[ToolCallPart] | UnsetType = UNSET


class ChunkChoice(Struct, kw_only=True):
    """New parts of one answer."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | UnsetType = UNSET
    token_ids: list[int] | UnsetType = UNSET


class ChatChunk(Struct, kw_only=True):
    """One chunk of a stream."""

    id: str
    created: int
    model: str
    choices: list[ChunkChoice]
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    usage: Usage | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET


def chat_prompt(body: ChatBody | TokenizeBody, *, trust_templates: bool) -> Any:
    """Return the conversation as a prompt of `Generator.submit`.

    Args:
        body: The request, which has messages.
        trust_templates: Whether a request may bring its chat template, which is a
            program.

    Raises:
        UnsupportedParameterError: The request brings a template.
        InvalidParameterError: The messages are an empty list, or tools are.
    """
    if body.chat_template is not None and not trust_templates:
        raise UnsupportedParameterError(
            "This server takes no chat template from a request: a template is a "
            "program. Start it with --trust-request-chat-template to allow it.",
            parameter="chat_template",
            value=None,
        )
    if not body.messages:
        raise InvalidParameterError(
            "messages must have at least one message.", parameter="messages", value=None
        )
    if body.tools is not None and not body.tools:
        raise InvalidParameterError(
            "tools must have at least one tool; leave the field out for none.",
            parameter="tools",
            value=None,
        )
    variables = dict(body.chat_template_kwargs or {})
    for name in ("documents", "reasoning_effort"):
        if (value := getattr(body, name)) is not None:
            variables[name] = value
    continued = bool(body.continue_final_message)
    begins = body.add_generation_prompt
    return {
        "messages": body.messages,
        "chat_template": body.chat_template,
        "add_generation_prompt": True if begins is None else begins,
        "continue_final_message": continued,
        "tools": None if body.tools is None else plain(body.tools),
        "chat_template_kwargs": variables,
    }


class ChatWriter(ChunkWriter):
    """Outputs as messages.

    Args:
        answering: Facts of the request.
        body: The request.
        prompt_token_ids: Ids of the rendered conversation.
        make_reader: Makes the reader of one answer's parts.
    """

    def __init__(
        self,
        answering: Answering,
        body: ChatBody,
        *,
        prompt_token_ids: Sequence[int],
        make_reader: Callable[[], PartReader] = PlainReader,
    ) -> None:
        super().__init__(
            answering,
            prompt_token_ids=[prompt_token_ids],
            stream_options=body.stream_options,
            as_ids=body.return_tokens_as_token_ids,
        )
        self._body = body
        self._make_reader = make_reader
        self._readers: list[PartReader] = []  # of a stream
        self._called: list[bool] = []

    # ------------------------------------------------------------------- the whole body

    @override
    def whole(self, outputs: Sequence[RequestOutput]) -> ChatCompletion:
        [output] = outputs
        facts, body = self._facts, self._body
        answer = ChatCompletion(
            id=f"chatcmpl-{facts.request_id}",
            created=facts.created,
            model=facts.model,
            choices=[self._choice(each) for each in output.outputs],
            usage=self._usage(outputs),
        )
        if body.return_token_ids:
            answer.prompt_token_ids = list(output.prompt_token_ids)
        if body.prompt_logprobs is not None:
            answer.prompt_logprobs = prompt_logprobs_json(output.prompt_logprobs or ())
        return answer

    def _choice(self, output: CompletionOutput) -> ChatChoice:
        reader = self._make_reader()
        first, last = reader.push(output.text), reader.finish()
        calls = _joined(first.tool_calls + last.tool_calls)
        content = first.content + last.content
        message = Message(
            content=None if calls and not content else content, role=self._facts.role
        )
        if reasoning := first.reasoning + last.reasoning:
            message.reasoning = reasoning
        if calls:
            message.tool_calls = calls
        return ChatChoice(
            index=output.index,
            message=message,
            logprobs=self._logprobs(output.token_ids, output.logprobs),
            finish_reason=_reason(output.finish_reason, called=bool(calls)) or "stop",
            stop_reason=output.stop_reason,
            token_ids=or_unset(output.token_ids, self._body.return_token_ids),
        )

    # -------------------------------------------------------------------------- chunks

    @override
    def begin(self) -> bytes:
        chunks = []
        for index in range(self._facts.num_choices):
            self._readers.append(self._make_reader())
            self._called.append(False)
            opened = Delta(role=self._facts.role, content="")
            chunk = self._chunk([ChunkChoice(index=index, delta=opened)])
            if index == 0 and self._body.return_token_ids:
                chunk.prompt_token_ids = list(self._prompt_token_ids[0])
            chunks.append(event(chunk))
        return b"".join(chunks)

    @override
    def delta(
        self, prompt: int, delta: CompletionDelta, so_far: Callable[[], RequestOutput]
    ) -> bytes:
        self._num_new += len(delta.token_ids)
        reader = self._readers[delta.index]
        parts = reader.push(delta.text)
        if delta.finish_reason is not None:
            parts = _add(parts, reader.finish())
        self._called[delta.index] |= bool(parts.tool_calls)
        reason = _reason(delta.finish_reason, called=self._called[delta.index])
        shown = Delta()
        if parts.content:
            shown.content = parts.content
        if parts.reasoning:
            shown.reasoning = parts.reasoning
        if parts.tool_calls:
            shown.tool_calls = list(parts.tool_calls)
        choice = ChunkChoice(
            index=delta.index,
            delta=shown,
            logprobs=self._logprobs(delta.token_ids, delta.logprobs),
            finish_reason=reason,
            token_ids=or_unset(delta.token_ids, self._body.return_token_ids),
        )
        if delta.stop_reason is not None:
            choice.stop_reason = delta.stop_reason
        if parts == Parts() and not (reason or choice.logprobs or choice.token_ids):
            return b""
        return event(self._chunk([choice], usage=self._usage_so_far()))

    def _chunk(
        self, choices: list[ChunkChoice], *, usage: Usage | UnsetType = UNSET
    ) -> ChatChunk:
        facts = self._facts
        return ChatChunk(
            id=f"chatcmpl-{facts.request_id}",
            created=facts.created,
            model=facts.model,
            choices=choices,
            usage=usage,
        )

    @override
    def _usage_chunk(self, usage: Usage) -> Struct:
        return self._chunk([], usage=usage)

    def _logprobs(self, token_ids: Sequence[int], logprobs: Any) -> ChatLogprobs | None:
        body = self._body
        if not body.logprobs or not logprobs:
            return None
        return chat_logprobs(
            token_ids,
            logprobs,
            top=body.top_logprobs or 0,
            as_ids=self._as_ids,
        )


def _reason(reason: str | None, *, called: bool) -> FinishReason | None:
    """Return the reason in OpenAI's words; a failed request has raised before."""
    if reason is None:
        return None
    if reason == "length":
        return "length"
    return "tool_calls" if called else "stop"


def _add(first: Parts, then: Parts) -> Parts:
    return Parts(
        content=first.content + then.content,
        reasoning=first.reasoning + then.reasoning,
        tool_calls=first.tool_calls + then.tool_calls,
    )


def _joined(parts: Sequence[ToolCallPart]) -> list[ToolCall]:
    """Return whole calls, in the order of their index."""
    calls: dict[int, ToolCall] = {}
    for part in parts:
        function: FunctionCallPart = part.function
        if part.index not in calls:
            called = FunctionCall(name=str(function.name), arguments="")
            calls[part.index] = ToolCall(id=str(part.id), function=called)
        calls[part.index].function.arguments += function.arguments
    return list(calls.values())
