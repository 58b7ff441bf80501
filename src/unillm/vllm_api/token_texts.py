# SPDX-License-Identifier: Apache-2.0

"""`Logprob.decoded_token` as vLLM has it.

A `Generator` gives the text of the token alone, with U+FFFD for a part of a character.
vLLM gives a token that completes a character the whole character, and ``""`` to the
tokens before it.
"""

from __future__ import annotations

import functools
import json
import os.path
from collections.abc import Iterable, Sequence
from typing import Any

from ..outputs import FlatLogprobs, Logprob, RequestOutput
from ..text.loading import load_tokenizer
from ..text.pieces import REPLACEMENT
from ..text.tokenizer import Tokenizer

_CONTEXT = 4
"""Tokens before a token with which it may complete a character."""


class TokenTexts:
    """The texts of the tokens of one tokenizer.

    Args:
        tokenizer: The tokenizer object of a generator.

    References:
        ``LogprobsProcessor`` in ``vllm/v1/engine/logprobs.py`` and
        ``convert_ids_list_to_tokens``, vLLM 0.32.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._object = tokenizer
        self._alone: dict[int, str] = {}

    @functools.cached_property
    def _tokenizer(self) -> Tokenizer:
        return load_tokenizer(self._object)

    @functools.cached_property
    def _marker(self) -> str | None:
        return _space_marker(self._object)

    def write(self, outputs: Iterable[RequestOutput | None]) -> None:
        """Replace the texts in the log-probabilities of *outputs*."""
        for output in outputs:
            if output is not None:
                self._write(output.prompt_logprobs or [])
                for completion in output.outputs:
                    self._write(completion.logprobs or [])

    def _write(self, positions: Sequence[dict[int, Logprob] | None]) -> None:
        """Replace the texts of a prompt or of a completion."""
        own: list[int] = []
        texts: list[str | None] = []
        for entries in positions:
            if not entries:
                continue
            for token_id, entry in entries.items():
                if entry.decoded_token is not None:
                    entry.decoded_token = self._text(token_id, own[-_CONTEXT:])
                texts.append(entry.decoded_token)
            own.append(next(iter(entries)))  # the token's own entry is the first
        if isinstance(positions, FlatLogprobs):  # which made its entries to be read
            positions.decoded_tokens[:] = texts

    def _text(self, token_id: int, before: list[int]) -> str:
        alone = self._alone.get(token_id)
        if alone is None:
            alone = self._alone[token_id] = self._text_alone(token_id)
        return self._completed(token_id, before) if _is_open(alone) else alone

    def _completed(self, token_id: int, before: list[int]) -> str:
        """Return the character that a token completes behind the tokens *before* it."""
        for count in range(1, len(before) + 1):
            context = before[-count:]
            text = self._decode([*context, token_id])
            if _is_open(text):
                continue
            whole = len(context)
            while whole and _is_open(self._decode(context[whole - 1 : whole])):
                whole -= 1
            known = self._decode(context[:whole])
            shared = os.path.commonprefix([known, text])  # noqa: RUF071 - of texts
            return text[len(shared) :]
        return ""

    def _text_alone(self, token_id: int) -> str:
        text = self._decode([token_id])
        token = self._tokenizer.id_to_token(token_id) or ""
        if self._marker is None:
            return text
        # A text loses its first spaces, and a token alone is a whole text.
        spaces = len(token) - len(token.lstrip(self._marker))
        return " " * (spaces - (len(text) - len(text.lstrip(" ")))) + text

    def _decode(self, token_ids: list[int]) -> str:
        return self._tokenizer.decode(token_ids, skip_special_tokens=False)


def _is_open(text: str) -> bool:
    """Whether a text ends in bytes that are not a character."""
    return text.endswith(REPLACEMENT)


def _space_marker(tokenizer: Any) -> str | None:
    """Return the letter that stands for a space; `None` without a step "Metaspace"."""
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if not hasattr(backend, "to_str"):
        return None
    step = json.loads(backend.to_str()).get("pre_tokenizer") or {}
    steps = step.get("pretokenizers", [step])
    marks = (each["replacement"] for each in steps if each.get("type") == "Metaspace")
    return next(marks, None)
