# SPDX-License-Identifier: Apache-2.0

"""Conversations: the forms that a caller may pass, and the two that templates read.

`as_conversation` checks the messages of a caller and brings them into one form;
`for_template` gives that form to a template. Both follow vLLM, so that a conversation
becomes the same prompt: ``parse_chat_messages`` and ``safe_apply_chat_template`` of
``vllm.renderers``, version 0.32.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from ..errors import InvalidPromptError, PromptTypeError
from ..fields import refuse

log = logging.getLogger("unillm")

Conversation = list[dict[str, Any]]

ContentFormat = Literal["string", "openai"]
"""The contents that a template reads: texts, or lists of ``{"type": "text"}``."""

CONTENT_FORMATS = ("auto", "string", "openai")
"""Values of a caller: "auto" is the format that the template reads."""

_FORM = '{"role": "user", "content": "…"}'

_TEXT_KEYS: Mapping[str, str] = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "refusal": "refusal",
    "thinking": "thinking",
}
"""Types of parts that are text, each with the key that holds it."""


def as_conversation(messages: Any) -> Conversation:
    """Return a copy of *messages* in which every content is a list of text parts.

    OpenAI's types, as their ``model_dump()`` writes them, are valid messages: keys with
    `None` and empty ``tool_calls`` are left out, and ``arguments`` that are JSON text
    become dicts, because templates expect those.

    Raises:
        PromptTypeError: A list, message or content has another type.
        InvalidPromptError: There is no message, a role is missing, a part is not text,
            or a tool call is not of a function. The error names the position of the
            message.
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(
        messages, Iterable
    ):
        raise PromptTypeError(
            f"A conversation must be a list of messages such as {_FORM}, got "
            f"{type(messages).__name__}."
        )
    found = [_message(position, message) for position, message in enumerate(messages)]
    if not found:
        raise InvalidPromptError(
            "The conversation has no message. Pass at least one, such as " + _FORM + "."
        )
    return found


def _message(position: int, message: Any) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        dump = " Pass its model_dump()." if hasattr(message, "model_dump") else ""
        raise PromptTypeError(
            f"Message {position} must be a dict such as {_FORM}, got "
            f"{type(message).__name__}.{dump}"
        )
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise InvalidPromptError(
            f'Message {position} needs a "role" that is a text, got {role!r}. '
            'Usual roles are "system", "user" and "assistant".'
        )
    parts = _parts(position, message.get("content"))
    given = {
        key: value
        for key, value in message.items()
        if value is not None and key != "content"
    }
    # The order of vLLM, for templates that print whole messages.
    found = {"role": role, "content": parts, **given}
    calls = given.get("tool_calls")
    if calls is not None:
        del found["tool_calls"]
        if isinstance(calls, (str, bytes, Mapping)) or not isinstance(calls, Iterable):
            raise PromptTypeError(
                f"The tool_calls of message {position} must be a list, got "
                f"{type(calls).__name__}."
            )
        if calls := [_tool_call(position, call) for call in calls]:
            found["tool_calls"] = calls
    # Templates read one of the two names.
    reasoning = given.get("reasoning", given.get("reasoning_content"))
    if reasoning is not None:
        found["reasoning"] = found["reasoning_content"] = reasoning
    return found


def _parts(position: int, content: Any) -> list[dict[str, Any]]:
    if content is None:
        return []
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if isinstance(content, (bytes, Mapping)) or not isinstance(content, Iterable):
        raise PromptTypeError(
            f"The content of message {position} must be a text or a list of text "
            f"parts, got {type(content).__name__}."
        )
    return [found for part in content if (found := _part(position, part)) is not None]


def _part(position: int, part: Any) -> dict[str, Any] | None:
    """Return a part with its text under ``"text"``; `None` if it has no text."""
    if isinstance(part, str):
        return {"type": "text", "text": part}
    kind: Any = type(part).__name__
    if isinstance(part, Mapping):
        kind = part.get("type", "text")
        key = _TEXT_KEYS.get(kind) if isinstance(kind, str) else None
        if key is not None and key in part:
            text = part[key]
            if text is None:
                return None
            if isinstance(text, str):
                others = {
                    name: value
                    for name, value in part.items()
                    if name not in ("type", key) and value is not None
                }
                return {"type": "text", "text": text, **others}
    raise InvalidPromptError(
        f"The content of message {position} has a part of type {kind!r}; only text "
        'parts ({"type": "text", "text": "…"}) can be generated from. Remove the part '
        "or describe it in words."
    )


def _tool_call(position: int, call: Any) -> dict[str, Any]:
    """Return a copy of a tool call whose arguments are a dict.

    The function stands under ``"function"``, as in OpenAI's types, or is the call
    itself, as some templates have it.
    """
    if not isinstance(call, Mapping) or call.get("type", "function") != "function":
        kind = call.get("type") if isinstance(call, Mapping) else type(call).__name__
        raise InvalidPromptError(
            f"Message {position} has a tool call of type {kind!r}; templates know "
            '{"type": "function", "function": {"name": …, "arguments": …}} alone.'
        )
    function = call.get("function")
    if isinstance(function, Mapping):
        return {**call, "function": _with_dict(position, function)}
    return _with_dict(position, call)


def _with_dict(position: int, function: Mapping[str, Any]) -> dict[str, Any]:
    given = arguments = function.get("arguments")
    if isinstance(arguments, str) and arguments:
        try:
            arguments = json.loads(arguments)
        except ValueError:
            arguments = None
    if given and not isinstance(arguments, Mapping):
        # A model wrote them, and the conversation must be able to go on.
        log.warning(
            "message %d calls the function %r with arguments that are not a JSON "
            "object; the template gets {} in their place: %.80r",
            position,
            function.get("name"),
            given,
        )
    return {
        **function,
        "arguments": arguments if given and isinstance(arguments, Mapping) else {},
    }


# ----------------------------------------------------------------------- for a template


def as_tools(value: Any) -> list[Any] | None:
    """Return the tools of a chat as a list; `None` stays `None`.

    Raises:
        InvalidParameterError: *value* is neither a list nor `None`.
    """
    if value is None:
        return None
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return list(value)
    raise refuse("tools", "a list of functions or JSON schemas, or None", value)


def for_template(
    conversation: Conversation, template: str, content_format: ContentFormat
) -> Conversation:
    """Return a conversation in the form that a template reads.

    A template that does not name the role "developer" gets "system" in its place. The
    results of tools are texts in both formats.
    """
    if not ('"developer"' in template or "'developer'" in template):
        conversation = _without_developers(conversation)
    return [
        message
        if content_format == "openai" and message["role"] != "tool"
        else {**message, "content": "\n".join(_texts(message))}
        for message in conversation
    ]


def _texts(message: Mapping[str, Any]) -> list[str]:
    """Return the texts of a message that are not empty."""
    return [part["text"] for part in message["content"] if part["text"]]


def _without_developers(conversation: Conversation) -> Conversation:
    """Return *conversation* with the developers' messages as the system's.

    Some templates take one system message, as the first; so several become one.
    """
    if all(message["role"] != "developer" for message in conversation):
        return conversation
    renamed = [
        {
            **{key: value for key, value in message.items() if key != "tools"},
            "role": "system",
        }
        if message["role"] == "developer"
        else message
        for message in conversation
    ]
    systems = [message for message in renamed if message["role"] == "system"]
    if systems == renamed[:1]:
        return renamed
    text = "\n\n".join(filter(None, ("\n".join(_texts(each)) for each in systems)))
    merged = {"role": "system", "content": [{"type": "text", "text": text}]}
    return [merged, *(each for each in renamed if each["role"] != "system")]
