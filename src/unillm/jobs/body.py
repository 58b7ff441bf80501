# SPDX-License-Identifier: Apache-2.0

"""Bodies of lines: made of rows, and completed with the fields of the whole job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import msgspec

from ..errors import InvalidPromptError
from ..protocol.bodies import ChatBody, CompletionBody
from ..protocol.endpoints import Chats, Completions, Responses
from .template import Template

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode

PROMPTS = ("prompt", "prompt_token_ids", "messages")
"""Columns with the prompt of a row, in the words of `Generator.generate`."""

FIELDS = frozenset(CompletionBody.__struct_fields__ + ChatBody.__struct_fields__)
"""Names of columns that are fields of the body."""

_CONSTRAINTS = ("response_format", "structured_outputs", "text", "tool_choice")
"""Fields of a line that leave no place for the schema of the job."""


@attrs.frozen(kw_only=True)
class Bodies:
    """Makes the bodies of a job's lines."""

    fields: Mapping[str, Any] = attrs.field(factory=dict)
    """Fields of the body for the lines that lack them."""
    schema: Mapping[str, Any] | None = None
    """JSON schema of the texts of lines that ask for no structure."""
    template: Template | None = None
    """Makes the prompt of a row."""
    chat: bool = False
    """Whether the prompt of a row becomes a user message."""
    system: str | None = None
    """System message before it."""

    def complete(self, url: str, body: bytes) -> bytes:
        """Return a body with the fields of the job that it lacks.

        Args:
            url: Path of the endpoint.
            body: JSON text; anything but an object stays as it is.
        """
        if not self.fields and self.schema is None:
            return body
        try:
            given = _decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return body  # the endpoint refuses it in its own words
        return _encode(self._completed(url, given))

    def _completed(self, url: str, body: dict[str, Any]) -> dict[str, Any]:
        for name, value in self.fields.items():
            if url == Responses.path and name == "max_tokens":
                body.setdefault("max_output_tokens", value)
            else:
                body.setdefault(name, value)
        if self.schema is not None and not any(body.get(name) for name in _CONSTRAINTS):
            named = {"name": "output", "schema": self.schema}
            if url == Responses.path:
                body["text"] = {"format": {"type": "json_schema", **named}}
            else:
                body["response_format"] = {"type": "json_schema", "json_schema": named}
        return body

    def of_row(self, row: Mapping[str, Any]) -> tuple[str, bytes]:
        """Return the path of the endpoint and the body for a row.

        A column that is named like a field of the body is that field. Without
        `max_tokens`, an answer goes on to its own end or that of the context.

        Raises:
            InvalidPromptError: The row has no prompt, or two.
        """
        body = {
            name: value
            for name, value in row.items()
            if value is not None and name in FIELDS and name not in PROMPTS
        }
        prompt = self._prompt(row)
        if isinstance(prompt, list) and prompt and isinstance(prompt[0], dict):
            url, body["messages"] = Chats.path, prompt
        elif not self.chat:
            url, body["prompt"] = Completions.path, prompt
        elif isinstance(prompt, str):
            url, body["messages"] = Chats.path, self._messages(prompt)
        else:
            raise InvalidPromptError(
                "--chat needs texts or messages, and this prompt is token ids."
            )
        completed = self._completed(url, body)
        if url == Completions.path:  # OpenAI's 16 tokens are for bodies of its API
            completed.setdefault("max_tokens", None)
        return url, _encode(completed)

    def _messages(self, prompt: str) -> list[dict[str, str]]:
        messages = [{"role": "user", "content": prompt}]
        if self.system is not None:
            messages.insert(0, {"role": "system", "content": self.system})
        return messages

    def _prompt(self, row: Mapping[str, Any]) -> Any:
        if self.template is not None:
            return self.template.render(row)
        given = [name for name in PROMPTS if row.get(name) is not None]
        if len(given) != 1:
            found = f"has {' and '.join(given)}" if given else "has none of them"
            raise InvalidPromptError(
                f"A row has one of {', '.join(PROMPTS)}; this one {found}. Or make the "
                "prompt of other columns with --prompt-template."
            )
        [name] = given
        wanted = str if name == "prompt" else list
        if not isinstance(row[name], wanted):
            shown = _encode(row[name]).decode()[:80]
            raise InvalidPromptError(
                f"{name} must be a {'text' if wanted is str else 'list'}, got {shown}."
            )
        return row[name]
