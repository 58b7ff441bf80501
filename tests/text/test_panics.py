# SPDX-License-Identifier: Apache-2.0

"""Tokenizers that fail on a text."""

from __future__ import annotations

import pytest
import tokenizers
from tokenizers import models

from unillm.errors import InvalidPromptError
from unillm.text.loading import load_tokenizer
from unillm.text.prompts import PlainText, tokenise


def test_a_text_that_the_tokenizer_has_no_token_for_is_an_invalid_prompt():
    words = tokenizers.Tokenizer(models.WordLevel({"hello": 0}))
    tokenizer = load_tokenizer(words)

    assert tokenise(PlainText("hello"), tokenizer) == [0]
    with pytest.raises(InvalidPromptError, match=r"cannot encode the prompt: .*UNK"):
        tokenise(PlainText("world"), tokenizer)


def test_a_panic_is_an_invalid_prompt():
    class PanicException(BaseException):
        pass

    class Broken:
        eos_token_id = 0

        def encode(self, text):
            raise PanicException(f"index out of bounds in {text}")

        def decode(self, ids):
            return ""

    with pytest.raises(InvalidPromptError, match="RuntimeError: index out of bounds"):
        tokenise(PlainText("x"), load_tokenizer(Broken()))
