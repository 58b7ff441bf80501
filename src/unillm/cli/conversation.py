# SPDX-License-Identifier: Apache-2.0

"""A conversation: its history, its answers, and the model that gives them.

A turn becomes part of the history as a whole, with as much of the answer as was shown,
or not at all: after an error the history is unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from ..errors import ConfigError, PromptTooLongError, UnillmError
from .reporting import note

if TYPE_CHECKING:
    from .. import (
        Generator,
        LoRARequest,
        RequestHandle,
        RequestOutput,
        SamplingParams,
    )

Show = Callable[["RequestHandle"], "tuple[RequestOutput | None, str]"]
"""Shows an answer as it comes. Returns its output, or `None` if Ctrl-C stopped it, and
the text that was shown."""


@attrs.define(eq=False, kw_only=True)
class Conversation:
    """One conversation with a generator, which `close` closes."""

    open_model: Callable[[str], Generator]
    """Loads a model, with the options of the command."""
    generator: Generator
    show: Show
    given: Mapping[str, Any] = attrs.field(factory=dict)
    """Sampling params that replace the model's own defaults."""
    system: str | None = None
    """System message before the history."""
    adapter: LoRARequest | None = None
    """Adapter that computes the answers."""
    history: list[dict[str, str]] = attrs.field(factory=list)
    """Messages of user and assistant, in turns."""
    file: Path | None = None
    """File that the conversation was saved to or loaded from."""
    failures: int = 0
    """Turns that ended in an error."""

    def close(self) -> None:
        """Close the generator."""
        self.generator.close()

    @property
    def is_empty(self) -> bool:
        """Whether the model would get the next message alone."""
        return not self.history and self.system is None

    @property
    def params(self) -> SamplingParams:
        """Params of the next answer: the model's defaults, and what was given."""
        params = self.generator.get_default_sampling_params()
        return attrs.evolve(params, **self.given)

    # ------------------------------------------------------------------------ answers

    def answer(self, text: str) -> bool:
        """Answer a message; return whether the turn became part of the history."""
        question = {"role": "user", "content": text}
        try:
            handle = self._submit([*self.history, question], self.params)
        except PromptTooLongError as error:
            raise self._too_long(error) from error
        output, shown = self.show(handle)
        if output is None and not shown:
            note("stopped before the first word; the message is taken back.")
            return False
        self.history += [question, {"role": "assistant", "content": shown}]
        if output is None:
            note("stopped; the answer until then is remembered.")
        else:
            self._write_notes(output)
        return True

    def regenerate(self) -> None:
        """Answer the last message again; the earlier answer stays if that fails.

        Raises:
            ConfigError: The conversation has no answer yet.
        """
        if not self.history:
            raise ConfigError(
                "The conversation has no answer yet. Send a message first."
            )
        before = self.history
        self.history = before[:-2]
        replaced = False
        try:
            replaced = self.answer(before[-2]["content"])
        finally:
            if not replaced:
                self.history = before
        params = self.params
        if params.greedy or params.seed is not None:
            name = "temperature=0" if params.greedy else f"seed={params.seed}"
            note(f"{name} gives the same answer each time; /params changes it.")

    def messages(self) -> list[dict[str, str]]:
        """Return the system message and the history."""
        if self.system is None:
            return list(self.history)
        return [{"role": "system", "content": self.system}, *self.history]

    def _submit(
        self, history: list[dict[str, str]], params: SamplingParams
    ) -> RequestHandle:
        if self.system is not None:
            history = [{"role": "system", "content": self.system}, *history]
        return self.generator.submit(
            {"messages": history}, params, lora_request=self.adapter
        )

    def _too_long(self, error: PromptTooLongError) -> UnillmError:
        what = "The message" if self.is_empty else "The conversation with it"
        remedies = ["a shorter message"]
        if not self.is_empty:
            remedies.insert(0, "/reset for a new conversation")
        if error.model_positions is None or error.model_positions > error.max_model_len:
            remedies.append("a new start with a larger --max-model-len")
        else:
            remedies.append("/model with one of a longer context")
        return ConfigError(
            f"{what} has {error.prompt_tokens} tokens; at most "
            f"{error.max_prompt_tokens} fit, because the context (max_model_len) holds "
            f"{error.max_model_len} with the answer. It was not sent. Use "
            f"{', '.join(remedies[:-1])} or {remedies[-1]}."
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

    # ------------------------------------------------------------------------ changes

    def change_params(self, changes: Mapping[str, Any]) -> None:
        """Change params for the turns after, if a request can have them.

        Raises:
            InvalidParameterError: A value is impossible; nothing is changed.
        """
        before, self.given = self.given, {**self.given, **changes}
        try:
            # The engine may refuse params too: now, and not at the next message.
            question = {"role": "user", "content": "?"}
            self._submit([question], self.params).cancel()
        except BaseException:
            self.given = before
            raise

    def change_model(self, name: str) -> None:
        """Load another model in the place of this one; the history stays.

        Raises:
            UnillmError: The model cannot be loaded; the earlier one answers again.
        """
        from ..resolve import configure

        configure(name)  # a wrong name is refused before anything is closed
        before = self.generator.config.model
        self.generator.close()  # two models may not fit into the memory
        try:
            self.generator = self.open_model(name)
        except BaseException:
            self.generator = self.open_model(before)
            raise

    def save(self, path: Path) -> None:
        """Write the conversation as one line that `unillm generate` takes.

        Raises:
            ConfigError: The file exists and is not this conversation's, or cannot be
                written.
        """
        line = {"model": self.generator.config.model, "messages": self.messages()}
        text = json.dumps(line, ensure_ascii=False) + "\n"
        try:
            with path.open("w" if path == self.file else "x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError as error:
            raise ConfigError(
                f"{path} exists already. Save to another file, or delete that one."
            ) from error
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} cannot be written: {error}.") from error
        self.file = path

    def load(self, path: Path) -> None:
        """Read a conversation in the place of this one.

        Raises:
            ConfigError: The file cannot be read, or has no conversation in turns.
        """
        try:
            found = json.loads(path.read_text("utf-8"))
            messages = found["messages"] if isinstance(found, dict) else found
            turns = [(each["role"], each["content"]) for each in messages]
        except (
            OSError,
            ValueError,
            LookupError,
            TypeError,
            RecursionError,
        ) as error:
            raise ConfigError(
                f"{path} cannot be loaded: {error}. /save writes such a file, a JSON "
                'object with "messages".'
            ) from error
        are_texts = all(isinstance(text, str) for _, text in turns)
        given = ", ".join(str(role) for role, _ in turns)
        system = None
        if turns and turns[0][0] == "system":
            (_, system), *turns = turns
        roles = [str(role) for role, _ in turns]
        if roles != ["user", "assistant"] * (len(turns) // 2) or not are_texts:
            raise ConfigError(
                f"{path} cannot be loaded: after a system message, texts of user and "
                f"assistant must take turns, got {given}."
            )
        self.system = system
        self.history = [{"role": role, "content": text} for role, text in turns]
        self.file = path
