# SPDX-License-Identifier: Apache-2.0

"""``/v1/responses``: its body, the conversation that it holds, and its params."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct

from ..errors import InvalidParameterError
from .bodies import (
    ChatBody,
    Count,
    FunctionName,
    JsonSchemaFormat,
    NamedTool,
    ResponseFormat,
    StreamOptions,
    Tool,
    ToolFunction,
)
from .sampling import check_stream_options

LOGPROBS = "message.output_text.logprobs"
"""The one value of ``include`` that the server knows."""

_TEXTS = ("input_text", "output_text", "text")
"""Types of a part that is text."""


class TextFormat(Struct, kw_only=True):
    """Form of the text; a schema stands beside its type."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class TextOptions(Struct, kw_only=True):
    """Options of the text."""

    format: TextFormat | None = None
    verbosity: Literal["medium"] | None = None


class Reasoning(Struct, kw_only=True):
    """Options of the reasoning."""

    effort: str | None = None
    summary: None = None


class ResponseTool(Struct, kw_only=True):
    """A function that the model may call."""

    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ResponseNamedTool(Struct, kw_only=True):
    """A function that the model must call."""

    type: Literal["function"]
    name: str


class ResponsesBody(Struct, kw_only=True):
    """Body of ``POST /v1/responses``."""

    input: str | list[dict[str, Any]]
    model: str | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: Count | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    tools: list[ResponseTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ResponseNamedTool | None = None
    parallel_tool_calls: bool | None = None
    include: list[Literal["message.output_text.logprobs"]] | None = None
    truncation: Literal["disabled"] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # vLLM's and unillm's.
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    logit_bias: dict[str, float] | None = None
    ignore_eos: bool | None = None
    min_tokens: int | None = None
    skip_special_tokens: bool | None = None
    structured_outputs: dict[str, Any] | None = None
    priority: int | None = None
    request_id: str | None = None
    timeout_s: float | None = None


_SAME = set(ResponsesBody.__struct_fields__) & set(ChatBody.__struct_fields__)
_OTHERWISE = {"tools", "tool_choice", "stream_options", "top_logprobs"}


def as_chat(body: ResponsesBody) -> ChatBody:
    """Return the request as a chat that means the same.

    Raises:
        InvalidParameterError: An item of the input is not text, a call or its result.
    """
    check_stream_options(body.stream_options, stream=body.stream)
    same = {name: getattr(body, name) for name in _SAME - _OTHERWISE}
    logprobs = bool(body.top_logprobs) or LOGPROBS in (body.include or ())
    return ChatBody(
        messages=_messages(body),
        max_completion_tokens=body.max_output_tokens,
        logprobs=logprobs or None,
        top_logprobs=body.top_logprobs,
        response_format=_format(body.text),
        reasoning_effort=None if body.reasoning is None else body.reasoning.effort,
        tools=_tools(body),
        tool_choice=_choice(body),
        **same,
    )


def _format(text: TextOptions | None) -> ResponseFormat | None:
    if text is None or text.format is None:
        return None
    form = text.format
    schema = JsonSchemaFormat(name=form.name, schema=form.schema, strict=form.strict)
    return ResponseFormat(type=form.type, json_schema=schema)


def _tools(body: ResponsesBody) -> list[Tool] | None:
    if not body.tools:
        return None
    return [
        Tool(
            type="function",
            function=ToolFunction(
                name=tool.name,
                description=tool.description,
                parameters=tool.parameters,
                strict=tool.strict,
            ),
        )
        for tool in body.tools
    ]


def _choice(body: ResponsesBody) -> Any:
    choice = body.tool_choice
    if isinstance(choice, ResponseNamedTool):
        return NamedTool(type="function", function=FunctionName(name=choice.name))
    return choice


def _messages(body: ResponsesBody) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if body.instructions is not None:
        messages.append({"role": "system", "content": body.instructions})
    if isinstance(body.input, str):
        return [*messages, {"role": "user", "content": body.input}]
    for position, item in enumerate(body.input):
        messages.extend(_message(position, item))
    return messages


def _message(position: int, item: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the messages of an item: one, or none for reasoning."""
    kind = item.get("type", "message")
    if kind == "message" and isinstance(item.get("role"), str):
        role = "system" if item["role"] == "developer" else item["role"]
        return [{"role": role, "content": _content(position, item.get("content"))}]
    if kind == "function_call":
        function = {"name": item.get("name"), "arguments": item.get("arguments")}
        call = {"id": item.get("call_id"), "type": "function", "function": function}
        return [{"role": "assistant", "content": None, "tool_calls": [call]}]
    if kind == "function_call_output":
        result = {"role": "tool", "tool_call_id": item.get("call_id")}
        return [{**result, "content": _content(position, item.get("output"))}]
    if kind == "reasoning":
        return []
    raise _invalid(position, f"has the type {kind!r}, or no role")


def _content(position: int, content: Any) -> Any:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise _invalid(position, "has no content")
    parts = []
    for part in content:
        text = part.get("text") if isinstance(part, dict) else None
        if not isinstance(text, str) or part.get("type") not in _TEXTS:
            raise _invalid(position, "has a part that is not text")
        parts.append({"type": "text", "text": text})
    return parts


def _invalid(position: int, what: str) -> InvalidParameterError:
    return InvalidParameterError(
        f"Item {position} of the input {what}. Items are messages of text, "
        "function_call, function_call_output and reasoning.",
        parameter="input",
        value=None,
    )
