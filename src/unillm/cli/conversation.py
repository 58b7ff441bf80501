# SPDX-License-Identifier: Apache-2.0

"""A conversation at the terminal: its history, its answers and its commands.

A turn becomes part of the history as a whole, with as much of the answer as was shown,
or not at all: after an error the history is unchanged.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs
import typer

from ..errors import (
    ChatTemplateError,
    ConfigError,
    EngineError,
    GeneratorClosedError,
    PromptTooLongError,
    UnillmError,
)
from . import options, writing
from .reporting import note, say_error
from .turns import QUOTES

if TYPE_CHECKING:
    from .. import (
        Generator,
        LoRARequest,
        RequestHandle,
        RequestOutput,
        SamplingParams,
    )
    from .turns import Turn

_FATAL = (EngineError, GeneratorClosedError)
_NEXT_PARAMETER = re.compile(r"\s+(?=\w+\s*=)")


@attrs.define(eq=False, kw_only=True)
class Conversation:
    """One conversation with a generator."""

    generator: Generator
    params: SamplingParams
    system: str | None = None
    """System message before the history."""
    adapter: LoRARequest | None = None
    """Adapter that computes the answers."""
    history: list[dict[str, str]] = attrs.field(factory=list)
    """Messages of user and assistant, in turns."""
    failures: int = 0
    """Turns that ended in an error."""

    def take(self, turn: Turn) -> bool:
        """Answer a message or run a command; return whether the chat goes on.

        Raises:
            EngineError: The engine died.
            ChatTemplateError: The model cannot chat.
        """
        name, _, rest = turn.text.strip().partition(" ")
        try:
            if turn.is_block or not name.startswith("/"):
                self._answer(turn.text)
            elif name == "/quit":
                return False
            else:
                _command(name)(self, rest.strip())
        except _FATAL:
            raise
        except UnillmError as error:
            if isinstance(error, ChatTemplateError) and self._is_empty():
                raise
            self.failures += 1
            say_error(str(error))
        return True

    def _is_empty(self) -> bool:
        return not self.history and self.system is None

    # ------------------------------------------------------------------------ answers

    def _answer(self, text: str) -> None:
        question = {"role": "user", "content": text}
        messages = [*self.history, question]
        if self.system is not None:
            messages.insert(0, {"role": "system", "content": self.system})
        try:
            handle = self._submit(messages)
        except PromptTooLongError as error:
            raise self._too_long(error) from error
        output, answer = _show(handle)
        if output is None and not answer:
            note("stopped before the first word; the message is taken back.")
            return
        self.history += [question, {"role": "assistant", "content": answer}]
        if output is None:
            note("stopped; the answer until then is remembered.")
        else:
            self._write_notes(output)

    def _submit(
        self, messages: list[dict[str, str]], params: SamplingParams | None = None
    ) -> RequestHandle:
        return self.generator.submit(
            {"messages": messages}, params or self.params, lora_request=self.adapter
        )

    def _too_long(self, error: PromptTooLongError) -> UnillmError:
        what = "The message" if self._is_empty() else "The conversation with it"
        reset = "" if self._is_empty() else "/reset for a new conversation, "
        return ConfigError(
            f"{what} has {error.prompt_tokens} tokens; at most "
            f"{error.max_prompt_tokens} fit, because the context (max_model_len) holds "
            f"{error.max_model_len} with the answer. It was not sent. Use {reset}"
            "a shorter message, or start again with a larger --max-model-len."
        )

    def _write_notes(self, output: RequestOutput) -> None:
        """Note how a turn was changed to fit the context, and why it ended early."""
        if output.num_truncated_tokens:
            note(
                f"{output.num_truncated_tokens} tokens were cut from the start of the "
                "conversation, as truncate_prompt_tokens asks."
            )
        if output.finish_reason != "length":
            return
        new, context = len(output.token_ids), self.generator.limits.max_model_len
        if len(output.prompt_token_ids) + new >= context:
            note(
                f"it ended after {new} tokens, because the context of {context} is "
                "full. /reset begins a new conversation."
            )
        else:
            note(f"it ended after {new} tokens; /params max_tokens=… allows more.")

    # ----------------------------------------------------------------------- commands

    def reset(self, rest: str) -> None:
        """Begin a new conversation; the system message and the params stay."""
        _refuse_text("/reset", rest)
        self.history.clear()
        note("a new conversation.")

    def show_or_change_params(self, rest: str) -> None:
        """Show the sampling params, or change some."""
        if rest:
            self.params = self._changed(rest)
            return
        for name, value in attrs.asdict(self.params, recurse=False).items():
            text = json.dumps(value, ensure_ascii=False, default=str)
            typer.echo(f"{name}={text}", err=True)

    def _changed(self, rest: str) -> SamplingParams:
        """Return the params with the changes of *rest*, if a request can have them."""
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
        params = attrs.evolve(self.params, **changes)
        # The engine may refuse params too: now, and not at the next message.
        self._submit([{"role": "user", "content": "?"}], params).cancel()
        return params

    def change_system(self, rest: str) -> None:
        """Change the system message, or remove it."""
        self.system = rest or None
        note(f"the system message is {'changed' if rest else 'removed'}.")

    def show_help(self, rest: str) -> None:
        """Show the commands."""
        _refuse_text("/help", rest)
        rows = {
            f"{name} {takes}": run.__doc__ for name, (run, takes) in COMMANDS.items()
        }
        rows |= {
            "/quit": "Leave, as Ctrl-D does.",
            QUOTES: f"Begin a message of several lines; {QUOTES} ends it.",
            "Ctrl-C": "Stop the answer; at the prompt: leave.",
        }
        for name, text in rows.items():
            typer.echo(f"{name:<24}{text}", err=True)


COMMANDS: dict[str, tuple[Callable[[Conversation, str], None], str]] = {
    "/reset": (Conversation.reset, ""),
    "/params": (Conversation.show_or_change_params, "[name=value …]"),
    "/system": (Conversation.change_system, "[TEXT]"),
    "/help": (Conversation.show_help, ""),
}
"""Method of each command, whose docstring is its help, and the text that it takes.
`Conversation.take` itself handles ``/quit``."""


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


def _show(handle: RequestHandle) -> tuple[RequestOutput | None, str]:
    """Write an answer as it comes; return its output and the text that was shown.

    Ctrl-C stops the answer: the output is then `None`.

    Raises:
        RequestError: The request failed.
    """
    shown: list[str] = []
    output = None
    try:
        for delta in handle:
            shown.append(delta.text)
            writing.write(delta.text)
        output = handle.result()
    except KeyboardInterrupt:
        pass
    finally:
        handle.cancel()
        if not (shown and shown[-1].endswith("\n")):
            writing.write("\n")
    return output, "".join(shown)
