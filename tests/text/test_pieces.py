# SPDX-License-Identifier: Apache-2.0

"""The bytes that each id adds to a text, for the objects of the libraries."""

from __future__ import annotations

import pytest
import tokenizers
from tokenizers import decoders, models

from unillm.text.pieces import rust_pieces


def letters(*steps):
    """A tokenizer of single letters with a decoder of these steps."""
    backend = tokenizers.Tokenizer(models.WordLevel({"a": 0, "▁b": 1}, unk_token="a"))
    backend.decoder = decoders.Sequence(list(steps))
    return backend


def test_an_added_token_outside_the_alphabet_is_its_own_text(gpt2):
    pieces = rust_pieces(gpt2)

    assert pieces[gpt2.token_to_id("tool call")] == b"tool call"
    # Its letters happen to be in GPT-2's alphabet, and its decoder takes them for that.
    assert pieces[gpt2.token_to_id("é!")] == b"\xe9!"
    assert pieces[gpt2.get_vocab_size() + 5] == b""


def test_byte_fallback_with_a_space_stripped_at_the_start_is_known(llama2):
    pieces = rust_pieces(llama2.backend_tokenizer)

    assert pieces.start_matters
    assert pieces[llama2.convert_tokens_to_ids("<0xE2>")] == b"\xe2"
    assert pieces[llama2.convert_tokens_to_ids("▁")] == b" "


def test_decoders_that_look_at_several_tokens_have_no_pieces():
    """Behind a fuse, everything but the very start is one token."""
    fused, spaces = decoders.Fuse(), decoders.Replace("▁", " ")
    known = rust_pieces(letters(spaces, fused, decoders.Strip(" ", 1, 0)))

    assert [known[0], known[1]] == [b"a", b" b"]
    for steps in (
        (fused, spaces),
        (spaces, fused, decoders.Strip(" ", 1, 1)),
        (spaces, decoders.CTC()),
    ):
        assert rust_pieces(letters(*steps)) is None


def test_a_tokenizer_that_marks_the_ends_of_words_has_no_pieces(word_ends):
    assert rust_pieces(word_ends) is None


@pytest.mark.parametrize("family", ["word_pieces", "unigram"])
def test_without_byte_fallback_a_byte_token_is_a_text(request, family):
    backend = request.getfixturevalue(family)
    pieces = rust_pieces(backend)

    assert pieces.start_matters
    shown = [pieces[token_id] for token_id in range(backend.get_vocab_size())]
    assert len(set(shown)) > 60
    assert all(isinstance(piece, bytes) for piece in shown)
