# SPDX-License-Identifier: Apache-2.0

"""Conversations: the forms that a caller may pass, and the one that templates get."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import InvalidPromptError, PromptTypeError

_FORM = '{"role": "user", "content": "…"}'


def as_conversation(messages: Any) -> list[dict[str, Any]]:
    """Return a copy of *messages* in which every content is a text.

    As vLLM does, joins text parts (``{"type": "text", "text": …}``) with line ends and
    gives an empty content to a message without one. Keeps other keys.

    Raises:
        InvalidPromptError: The list is empty, a message has another form, or a content
            is not text. The error names the position of the message.
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(
        messages, Sequence
    ):
        raise PromptTypeError(
            f"A conversation must be a list of messages such as {_FORM}, got "
            f"{type(messages).__name__}."
        )
    if not messages:
        raise InvalidPromptError(
            "The conversation has no message. Pass at least one, such as " + _FORM + "."
        )
    return [_message(position, message) for position, message in enumerate(messages)]


def _message(position: int, message: Any) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise PromptTypeError(
            f"Message {position} must be a dict such as {_FORM}, got "
            f"{type(message).__name__}."
        )
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise InvalidPromptError(
            f'Message {position} needs a "role" that is a text, got {role!r}. '
            'Usual roles are "system", "user" and "assistant".'
        )
    return {**message, "content": _content(position, message.get("content"))}


def _content(position: int, content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, Mapping) or not isinstance(content, Sequence):
        raise PromptTypeError(
            f"The content of message {position} must be a text or a list of text "
            f"parts, got {type(content).__name__}."
        )
    return "\n".join(_part(position, part) for part in content)


def _part(position: int, part: Any) -> str:
    if isinstance(part, str):
        return part
    kind: Any = type(part).__name__
    if isinstance(part, Mapping):
        text, kind = part.get("text"), part.get("type")
        if isinstance(text, str) and part.get("type", "text") == "text":
            return text
    raise InvalidPromptError(
        f"The content of message {position} has a part of type {kind!r}; only text "
        'parts ({"type": "text", "text": "…"}) can be generated from. Remove the part '
        "or describe it in words."
    )
