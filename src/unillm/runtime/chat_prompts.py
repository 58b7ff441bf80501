# SPDX-License-Identifier: Apache-2.0

"""`ChatPrompt`: a conversation with the arguments of the template that renders it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType, NoneType
from typing import Any

import attrs

from ..errors import InvalidParameterError, UnknownArgumentError
from ..fields import refuse
from ..text.chat import CONTENT_FORMATS
from ..text.prompts import as_conversations


@attrs.frozen
class ChatPrompt:
    """A conversation, and the arguments of the chat template that renders it."""

    messages: Any
    arguments: Mapping[str, Any] = MappingProxyType({})

    @classmethod
    def of(cls, messages: Any, options: Mapping[str, Any]) -> ChatPrompt:
        """Return a prompt with the chat options that `Generator.chat` has by default.

        Args:
            messages: A conversation, unchecked.
            options: Those that the caller gives; ``chat_template_kwargs`` holds further
                variables of the template.

        Raises:
            InvalidParameterError: An option has the wrong type, two exclude each other,
                or there is no such content format.
            UnknownArgumentError: An option does not exist.
        """
        for name in options.keys() - CHAT_OPTIONS.keys():
            raise UnknownArgumentError("A chat", name, CHAT_OPTIONS)
        arguments = {**CHAT_OPTIONS, **options}
        for name, (kind, expected) in _CHAT_TYPES.items():
            if not isinstance(arguments[name], kind):
                raise refuse(name, expected, arguments[name])
        variables = arguments.pop("chat_template_kwargs") or {}
        if not all(isinstance(name, str) for name in variables) or (
            variables.keys() & {"messages", "self"}
        ):
            expected = 'a dict of names other than "messages" and "self"'
            raise refuse("chat_template_kwargs", expected, variables)
        if arguments["continue_final_message"] and arguments["add_generation_prompt"]:
            raise InvalidParameterError(
                "continue_final_message=True continues the last message, "
                "add_generation_prompt=True begins a new one. To continue, pass "
                "add_generation_prompt=False too.",
                parameter="continue_final_message",
                value=True,
            )
        form = arguments["chat_template_content_format"]
        if not isinstance(form, str) or form not in CONTENT_FORMATS:
            raise InvalidParameterError(
                "chat_template_content_format must be one of "
                f"{', '.join(map(repr, CONTENT_FORMATS))}, got {form!r}.",
                parameter="chat_template_content_format",
                value=form,
            )
        return cls(messages, {**arguments, **variables})


CHAT_OPTIONS: Mapping[str, Any] = {
    "add_generation_prompt": True,
    "continue_final_message": False,
    "chat_template": None,
    "chat_template_content_format": "auto",
    "tools": None,
    "chat_template_kwargs": None,
}
"""Arguments of a chat beside its messages, and their defaults."""


_CHAT_TYPES: Mapping[str, tuple[Any, str]] = {
    "add_generation_prompt": (bool, "True or False"),
    "continue_final_message": (bool, "True or False"),
    "chat_template": ((str, NoneType), "a text or None"),
    "chat_template_kwargs": ((Mapping, NoneType), "a dict or None"),
}
"""Types of chat options, and their names in messages."""


def template_of(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return those arguments of a call that are for the template."""
    return {name: arguments[name] for name in CHAT_OPTIONS}


def chat_prompts(messages: Any, options: Mapping[str, Any]) -> list[ChatPrompt]:
    """Return a prompt for each conversation."""
    return [ChatPrompt.of(each, options) for each in as_conversations(messages)]
