# SPDX-License-Identifier: Apache-2.0

"""What a conversation may look like, and its one form that every template reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import InvalidPromptError, PromptTypeError

_FORM = '{"role": "user", "content": "…"}'


def as_conversation(messages: Any) -> list[dict[str, Any]]:
    """Return a copy of *messages* in which every content is a text.

    Text parts (``{"type": "text", "text": …}``) are joined by line ends, and a message
    without content has an empty one, both as in vLLM. Other keys are kept.

    Raises:
        InvalidPromptError: No message, a message of another form, or content that is
            not text. Names the place of the message.
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
    return [_message(place, message) for place, message in enumerate(messages)]


def _message(place: int, message: Any) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise PromptTypeError(
            f"Message {place} must be a dict such as {_FORM}, got "
            f"{type(message).__name__}."
        )
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise InvalidPromptError(
            f'Message {place} needs a "role" that is a text, got {role!r}. '
            'Usual roles are "system", "user" and "assistant".'
        )
    return {**message, "content": _content(place, message.get("content"))}


def _content(place: int, content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, Mapping) or not isinstance(content, Sequence):
        raise PromptTypeError(
            f"The content of message {place} must be a text or a list of text parts, "
            f"got {type(content).__name__}."
        )
    return "\n".join(_part(place, part) for part in content)


def _part(place: int, part: Any) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping) and isinstance(part.get("text"), str):
        kind = part.get("type", "text")
        if kind == "text":
            return str(part["text"])
    else:
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    raise InvalidPromptError(
        f"The content of message {place} has a part of type {kind!r}; only text parts "
        '({"type": "text", "text": "…"}) can be generated from. Remove the part or '
        "describe it in words."
    )
