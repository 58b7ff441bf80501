# SPDX-License-Identifier: Apache-2.0

"""`TextMethods`: the methods of `Generator` that compute no tokens."""

from __future__ import annotations

from collections.abc import Sequence
from types import NoneType
from typing import TYPE_CHECKING, Any

import attrs

from ..fields import refuse
from ..params import SamplingParams
from ..text.loading import ModelText
from ..text.prompts import PromptType

if TYPE_CHECKING:
    from .requests import RequestMaker


class TextMethods:
    """Tokenizer and sampling defaults of a generator's model; safe from any thread."""

    _text: ModelText
    _requests: RequestMaker

    def get_tokenizer(self) -> Any:
        """Return the tokenizer object itself: transformers' or the caller's own."""
        return self._text.tokenizer.wrapped

    def get_default_sampling_params(self) -> SamplingParams:
        """Return a copy of the model's own defaults, from its `generation_config`.

        Raises:
            InvalidParameterError: The file sets an impossible value.
        """
        return attrs.evolve(self._text.defaults.check())

    def tokenize(
        self, prompt: PromptType, *, add_special_tokens: bool | None = None
    ) -> list[int]:
        """Return the token ids of a prompt as a request would have them.

        Args:
            prompt: One prompt in any form that `submit` takes.
            add_special_tokens: Add the tokens that the model expects around a text,
                such as BOS; `None` adds them to texts and not to conversations, whose
                template writes its own. Ignored for a prompt of ids.

        Raises:
            InvalidPromptError: The prompt is not valid.
            ChatTemplateError: The chat template refused the messages.
            InvalidParameterError: *add_special_tokens* is not a bool or `None`.
        """
        if not isinstance(add_special_tokens, (bool, NoneType)):
            raise refuse(
                "add_special_tokens", "True, False or None", add_special_tokens
            )
        return list(
            self._requests.token_ids(prompt, add_special_tokens=add_special_tokens)
        )

    def detokenize(
        self, token_ids: Sequence[int], *, skip_special_tokens: bool = False
    ) -> str:
        """Return the text of token ids.

        Args:
            token_ids: Ids of the model's vocabulary.
            skip_special_tokens: Leave the text of special tokens out.

        Raises:
            InvalidPromptError: An id is not in the vocabulary.
            InvalidParameterError: *skip_special_tokens* is not a bool.
        """
        if not isinstance(skip_special_tokens, bool):
            raise refuse("skip_special_tokens", "True or False", skip_special_tokens)
        ids = self._requests.token_ids(token_ids, add_special_tokens=None)
        return self._text.tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)
