# SPDX-License-Identifier: Apache-2.0

"""The commands of a chat: lines that begin with a slash."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..errors import (
    ChatTemplateError,
    ConfigError,
    EngineError,
    GeneratorClosedError,
    UnillmError,
)
from . import options
from .reporting import note, say_error
from .turns import QUOTES

if TYPE_CHECKING:
    from .conversation import Conversation
    from .turns import Turn

LEAVING = ("/exit", "/quit")

_FATAL = (EngineError, GeneratorClosedError)
_NEXT_PARAMETER = re.compile(r"\s+(?=\w+\s*=)")


def take(conversation: Conversation, turn: Turn) -> bool:
    """Answer a message or run a command; return whether the chat goes on.

    Raises:
        EngineError: The engine died.
        ChatTemplateError: The model cannot chat.
    """
    name, _, rest = turn.text.strip().partition(" ")
    is_first = conversation.is_empty
    try:
        if turn.is_block or not name.startswith("/"):
            conversation.answer(turn.text)
        elif name in LEAVING:
            return False
        else:
            _command(name)(conversation, rest.strip())
    except _FATAL:
        raise
    except UnillmError as error:
        if isinstance(error, ChatTemplateError) and is_first:
            raise
        conversation.failures += 1
        say_error(str(error))
    return True


def _command(name: str) -> Callable[[Conversation, str], None]:
    if name not in COMMANDS:
        raise ConfigError(
            f"There is no command {name}. /help shows them; to send a message that "
            f"begins with a slash, put it between {QUOTES} and {QUOTES}."
        )
    return COMMANDS[name][0]


def _refuse_text(name: str, rest: str) -> None:
    if rest:
        raise ConfigError(f"{name} takes nothing, got {rest!r}.")


def _path(rest: str, conversation: Conversation, name: str) -> Path:
    """Return the file that a command names, or else that of the conversation."""
    if rest:
        return Path(os.path.expanduser(rest))
    if conversation.file is None:
        raise ConfigError(f"{name} takes a file: {name} FILE")
    return conversation.file


def regenerate(conversation: Conversation, rest: str) -> None:
    """Answer the last message again."""
    _refuse_text("/regenerate", rest)
    conversation.regenerate()


def reset(conversation: Conversation, rest: str) -> None:
    """Begin a new conversation; the system message and the params stay."""
    _refuse_text("/reset", rest)
    conversation.history.clear()
    conversation.file = None
    note("a new conversation.")


def save(conversation: Conversation, rest: str) -> None:
    """Write the conversation to a file."""
    path = _path(rest, conversation, "/save")
    conversation.save(path)
    note(f"saved to {path}.")


def load(conversation: Conversation, rest: str) -> None:
    """Go on with the conversation of a file."""
    conversation.load(_path(rest, conversation, "/load"))
    note(f"a conversation of {len(conversation.history) // 2} turns.")


def change_model(conversation: Conversation, rest: str) -> None:
    """Show the model, or answer with another one from now on."""
    if rest:
        conversation.change_model(rest)
    generator = conversation.generator
    note(
        f"{generator.config.model} on {generator.backend}, with a context of "
        f"{generator.limits.max_model_len} tokens."
    )


def change_system(conversation: Conversation, rest: str) -> None:
    """Change the system message, or remove it."""
    conversation.system = rest or None
    note(f"the system message is {'changed' if rest else 'removed'}.")


def show_or_change_params(conversation: Conversation, rest: str) -> None:
    """Show the sampling params, or change some."""
    if rest:
        conversation.change_params(_changes(rest))
        return
    for name in conversation.params.__struct_fields__:
        value = getattr(conversation.params, name)
        text = json.dumps(value, ensure_ascii=False, default=str)
        typer.echo(f"{name}={text}", err=True)


def _changes(rest: str) -> dict[str, Any]:
    """Read ``name=value`` pairs."""
    changes: dict[str, Any] = {}
    for pair in _NEXT_PARAMETER.split(rest):
        name, equals, value = map(str.strip, pair.partition("="))
        if not equals:
            raise ConfigError(f"/params takes name=value, got {pair!r}.")
        changes[name] = options.as_value(value)
    refused = changes.keys() & {"n", "logprobs"}
    if refused:
        raise ConfigError(
            f"A chat shows one answer and its text, so {' and '.join(refused)} "
            "cannot be changed in it."
        )
    return changes


def show_help(conversation: Conversation, rest: str) -> None:
    """Show the commands."""
    del conversation
    _refuse_text("/help", rest)
    rows = {f"{name} {takes}": run.__doc__ for name, (run, takes) in COMMANDS.items()}
    rows |= {
        " or ".join(LEAVING): "Leave, as Ctrl-D does.",
        QUOTES: f"Begin a message of several lines; {QUOTES} ends it.",
        "Alt-Enter": "Begin a new line of the message, at a terminal.",
        "Ctrl-C": "Stop the answer, or clear the line.",
    }
    for name, text in rows.items():
        typer.echo(f"{name:<24}{text}", err=True)


COMMANDS: dict[str, tuple[Callable[[Conversation, str], None], str]] = {
    "/regenerate": (regenerate, ""),
    "/reset": (reset, ""),
    "/save": (save, "[FILE]"),
    "/load": (load, "[FILE]"),
    "/model": (change_model, "[NAME]"),
    "/system": (change_system, "[TEXT]"),
    "/params": (show_or_change_params, "[name=value …]"),
    "/help": (show_help, ""),
}
"""Function of each command, whose docstring is its help, and the text that it takes.
`take` itself handles `LEAVING`."""
