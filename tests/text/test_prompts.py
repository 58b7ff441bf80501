# SPDX-License-Identifier: Apache-2.0

"""Prompts: the forms that a caller may write, and ids that fit the engine."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unillm import SamplingParams
from unillm.engines.base import EngineLimits
from unillm.errors import (
    InvalidParameterError,
    InvalidPromptError,
    PromptTooLongError,
    PromptTypeError,
    UnsupportedParameterError,
)
from unillm.text.loading import load_tokenizer
from unillm.text.prompts import (
    PlainText,
    RenderedText,
    TokenIds,
    as_conversations,
    as_prompts,
    normalise,
    prepare,
    tokenise_bad_words,
)

LIMITS = EngineLimits(max_model_len=16, max_num_seqs=1, vocab_size=400)


@pytest.fixture(scope="session")
def tokenizer(llama3_dir):
    return load_tokenizer(llama3_dir)


# --------------------------------------------------------------------------------- forms


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("text", ["text"]),
        ([1, 2], [[1, 2]]),
        ((1, 2), [(1, 2)]),
        (range(3), [range(3)]),
        (["a", "b"], ["a", "b"]),
        (("a", [1]), ["a", [1]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
        ({"prompt": "a"}, [{"prompt": "a"}]),
        ([{"prompt": "a"}, "b"], [{"prompt": "a"}, "b"]),
        (deque(["a", "b"]), ["a", "b"]),
        ([], []),
        ((), []),
        (["a", None, 5], ["a", None, 5]),
    ],
)
def test_a_call_is_split_into_prompts(given, expected):
    assert as_prompts(given) == expected


@pytest.mark.parametrize(
    "array",
    [np.array([1, 2]), torch.tensor([1, 2]), list(np.array([1, 2]))],
    ids=["numpy", "torch", "list of numpy integers"],
)
def test_an_array_is_one_prompt(tokenizer, array):
    (prompt,) = as_prompts(array)

    prepared = prepare(normalise(prompt), tokenizer, LIMITS, SamplingParams())

    assert prepared.token_ids == (1, 2)
    assert all(type(i) is int for i in prepared.token_ids)


def test_arrays_in_a_list_are_a_prompt_each():
    assert len(as_prompts([np.array([1]), torch.tensor([2])])) == 2


@pytest.mark.parametrize("given", [None, 5, b"text", 1.5, object(), iter(["a"])])
def test_the_error_for_another_type_names_it_and_the_forms(given):
    with pytest.raises(PromptTypeError, match=rf"a text.*; got {type(given).__name__}"):
        as_prompts(given)


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ("a", PlainText("a")),
        ([1], TokenIds([1])),
        ((1,), TokenIds((1,))),
        ([], TokenIds([])),
        ({"prompt": "a"}, PlainText("a")),
        ({"prompt_token_ids": [1]}, TokenIds([1])),
        ({"prompt_token_ids": np.array([1])}, TokenIds([1])),
        ({"prompt": "a", "prompt_token_ids": [1]}, TokenIds([1], "a")),
        ({"prompt": "a", "prompt_token_ids": None}, PlainText("a")),
        (RenderedText("a"), RenderedText("a")),
    ],
)
def test_one_prompt_becomes_a_value(item, expected):
    assert normalise(item) == expected


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (None, "got NoneType"),
        (5, "got int"),
        (b"a", "got bytes"),
        ({}, 'needs "prompt" or "prompt_token_ids"'),
        ({"text": "a"}, "unknown keys text"),
        ({"prompt": "a", "multi_modal_data": {"image": 1}}, '"multi_modal_data"'),
        ({"prompt": "a", "cache_salt": ""}, '"cache_salt" must be a text'),
        ({"prompt": [1]}, '"prompt" must be a text, got list'),
        ({"prompt_token_ids": "a"}, "got str"),
        (np.array([[1, 2]]), "one dimension, got 2"),
        (torch.tensor(1), "one dimension, got 0"),
    ],
)
def test_a_prompt_of_another_form_is_refused(item, message):
    with pytest.raises(InvalidPromptError, match=message):
        normalise(item)


# ------------------------------------------------------------------------- conversations

HELLO = {"role": "user", "content": "hello"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([HELLO], [[HELLO]]),
        ([[HELLO], [HELLO, HELLO]], [[HELLO], [HELLO, HELLO]]),
        ([], []),
        ([[HELLO], None], [[HELLO], None]),
    ],
)
def test_a_chat_is_split_into_conversations(given, expected):
    assert as_conversations(given) == expected


@pytest.mark.parametrize("given", ["hello", None, HELLO, 5])
def test_another_type_of_conversation_is_refused(given):
    with pytest.raises(PromptTypeError, match=type(given).__name__):
        as_conversations(given)


# ------------------------------------------------------------------------ text and ids


def test_a_text_gets_special_tokens_and_a_rendered_one_does_not(tokenizer):
    text = prepare(PlainText("hello"), tokenizer, LIMITS, SamplingParams())
    rendered = prepare(RenderedText("hello"), tokenizer, LIMITS, SamplingParams())

    assert text.token_ids == (0, *rendered.token_ids)
    assert text.text == rendered.text == "hello"


def test_ids_stay_as_they_are_beside_their_text(tokenizer):
    prepared = prepare(TokenIds([7, 8], "hello"), tokenizer, LIMITS, SamplingParams())

    assert (prepared.token_ids, prepared.text) == ((7, 8), "hello")


@pytest.mark.parametrize("prompt", [TokenIds([]), RenderedText("")])
def test_an_empty_prompt_is_refused(tokenizer, prompt):
    with pytest.raises(InvalidPromptError, match="The prompt is empty"):
        prepare(prompt, tokenizer, LIMITS, SamplingParams())


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1, 400], "Token id 400 at position 1 .* ids 0 to 399"),
        ([1, 2, -3, -4], "Token id -3 at position 2"),
        ([1, 2.0], "at position 1 it has 2.0, a float"),
        ([True], "at position 0 it has True, a bool"),
        ([1, "a"], "at position 1 it has 'a', a str"),
        ([1, None], "at position 1 it has None, a NoneType"),
    ],
)
def test_a_bad_id_is_named_with_its_position(tokenizer, ids, message):
    with pytest.raises(InvalidPromptError, match=message):
        prepare(TokenIds(ids), tokenizer, LIMITS, SamplingParams())


def test_a_tokenizer_larger_than_the_model_is_refused(tokenizer):
    limits = EngineLimits(max_model_len=16, max_num_seqs=1, vocab_size=100)

    with pytest.raises(InvalidPromptError, match=r"out of vocabulary: .* ids 0 to 99"):
        prepare(PlainText("hello world"), tokenizer, limits, SamplingParams())


def test_half_a_surrogate_pair_is_refused(tokenizer):
    with pytest.raises(
        InvalidPromptError, match=r"not valid Unicode: .* at character 1"
    ):
        prepare(PlainText("a\ud800"), tokenizer, LIMITS, SamplingParams())


# ------------------------------------------------------------------------------- lengths


def tokens(count):
    return TokenIds([7] * count)


@pytest.mark.parametrize(
    ("length", "max_tokens", "expected"),
    [
        (10, 6, (6, False)),
        (10, 7, (6, True)),
        (10, None, (6, False)),
        (15, 16, (1, True)),
        (1, 10_000, (15, True)),
        (1, 15, (15, False)),
    ],
)
def test_new_tokens_are_fitted_to_the_context(tokenizer, length, max_tokens, expected):
    params = SamplingParams(max_tokens=max_tokens)

    prepared = prepare(tokens(length), tokenizer, LIMITS, params)

    assert (prepared.max_new_tokens, prepared.fitted) == expected


def test_strict_length_refuses_with_the_numbers(tokenizer):
    with pytest.raises(
        InvalidParameterError,
        match=r"max_tokens=7 .* length is 16 tokens .* has 10, which leaves 6",
    ) as caught:
        prepare(
            tokens(10),
            tokenizer,
            LIMITS,
            SamplingParams(max_tokens=7),
            strict_length=True,
        )

    assert (caught.value.parameter, caught.value.value) == ("max_tokens", 7)


def test_strict_length_takes_what_fits(tokenizer):
    params = SamplingParams(max_tokens=None)

    assert not prepare(tokens(10), tokenizer, LIMITS, params, strict_length=True).fitted


def test_more_min_tokens_than_fit_are_refused(tokenizer):
    params = SamplingParams(min_tokens=7, max_tokens=None)

    with pytest.raises(InvalidParameterError, match=r"min_tokens=7 .* leaves 6"):
        prepare(tokens(10), tokenizer, LIMITS, params)


@pytest.mark.parametrize("length", [16, 17, 1000])
def test_a_prompt_that_leaves_no_room_is_too_long(tokenizer, length):
    with pytest.raises(PromptTooLongError) as caught:
        prepare(tokens(length), tokenizer, LIMITS, SamplingParams())

    error = caught.value
    assert (error.prompt_tokens, error.max_prompt_tokens) == (length, 15)
    assert error.max_model_len == 16


def test_the_engines_longest_prompt_counts(tokenizer):
    limits = EngineLimits(
        max_model_len=16, max_num_seqs=1, vocab_size=400, max_prompt_len=4
    )

    with pytest.raises(PromptTooLongError, match="at most 4"):
        prepare(tokens(5), tokenizer, limits, SamplingParams())


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        (3, (4, 5, 6)),
        (-1, (2, 3, 4, 5, 6)),
        (6, (1, 2, 3, 4, 5, 6)),
        (9, (1, 2, 3, 4, 5, 6)),
    ],
)
def test_truncation_keeps_the_end_and_counts_the_rest(tokenizer, keep, expected):
    limits = EngineLimits(
        max_model_len=16,
        max_num_seqs=1,
        vocab_size=400,
        max_prompt_len=5 if keep == -1 else None,
    )
    params = SamplingParams(truncate_prompt_tokens=keep)

    prepared = prepare(TokenIds([1, 2, 3, 4, 5, 6]), tokenizer, limits, params)

    assert prepared.token_ids == expected
    assert 6 - len(expected) == prepared.num_truncated


def test_truncating_to_more_than_fits_is_still_too_long(tokenizer):
    params = SamplingParams(truncate_prompt_tokens=20)

    with pytest.raises(PromptTooLongError, match="has 20 tokens; at most 15"):
        prepare(tokens(30), tokenizer, LIMITS, params)


@pytest.mark.property
@given(
    ids=st.lists(st.integers(0, 399), min_size=1, max_size=30),
    keep=st.none() | st.just(-1) | st.integers(1, 30),
    max_tokens=st.none() | st.integers(1, 40),
    context=st.integers(2, 24),
)
def test_a_prepared_prompt_always_fits(tokenizer, ids, keep, max_tokens, context):
    limits = EngineLimits(max_model_len=context, max_num_seqs=1, vocab_size=400)
    params = SamplingParams(max_tokens=max_tokens, truncate_prompt_tokens=keep)

    kept = (
        len(ids) if keep is None else min(len(ids), context - 1 if keep == -1 else keep)
    )
    if kept >= context:
        with pytest.raises(PromptTooLongError, match=f"has {kept} tokens"):
            prepare(TokenIds(ids), tokenizer, limits, params)
        return

    prepared = prepare(TokenIds(ids), tokenizer, limits, params)

    assert list(prepared.token_ids) == ids[prepared.num_truncated :]
    assert len(prepared.token_ids) + prepared.max_new_tokens <= context
    assert prepared.max_new_tokens >= 1
    assert prepared.fitted == (
        max_tokens is not None and prepared.max_new_tokens < max_tokens
    )


# -------------------------------------------------------------- fields that name tokens


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"stop_token_ids": [5, 400]}, "stop_token_ids has 400, out of"),
        ({"allowed_token_ids": [5, 400]}, "allowed_token_ids has 400, out of"),
        ({"logit_bias": {400: 1.0, 5: 1.0}}, "logit_bias has 400, out of"),
        (
            {"stop_token_ids": list(range(400, 420))},
            "has 400, 401, 402, 403, 404 and 15 more, out of",
        ),
    ],
)
def test_parameters_with_ids_outside_the_vocabulary_are_refused(
    tokenizer, params, message
):
    with pytest.raises(InvalidParameterError, match=message) as caught:
        prepare(tokens(1), tokenizer, LIMITS, SamplingParams(**params))

    assert caught.value.parameter in params
    assert "the ids 0 to 399" in str(caught.value)


def test_the_last_id_of_the_vocabulary_is_accepted(tokenizer):
    params = SamplingParams(stop_token_ids=[399], logit_bias={399: 1})

    assert prepare(tokens(1), tokenizer, LIMITS, params).token_ids == (7,)


def test_spaces_between_special_tokens_are_refused_where_they_are_unknown(families):
    params = SamplingParams(spaces_between_special_tokens=False)

    def prepared(family, params):
        return prepare(TokenIds([7]), families[family], LIMITS, params).token_ids

    assert prepared("gpt2", params) == (7,)
    assert prepared("word_ends", SamplingParams()) == (7,)
    with pytest.raises(UnsupportedParameterError, match="joins tokens in a") as caught:
        prepared("word_ends", params)
    assert caught.value.parameter == "spaces_between_special_tokens"
    assert caught.value.value is False


class Words:
    """Words are one id each; a space before one is a part of it, but before "Z"."""

    eos_token_id = 0
    vocab_size = 40

    def encode(self, text, add_special_tokens=True):
        spaced, word = text.startswith(" "), text.strip()
        special = [39] if add_special_tokens else []
        if not word:
            return special
        if word == "Z":
            return [*special, *([1] if spaced else []), 2]
        return [*special, *(10 * (len(part)) + spaced for part in word.split("-"))]

    def decode(self, ids, skip_special_tokens=False):
        return " ".join(map(str, ids))


def bad_words(*words, vocab_size=40):
    return tokenise_bad_words(words, load_tokenizer(Words()), vocab_size)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["a", "bb"], ((10,), (11,), (20,), (21,))),
        (["  a"], ((10,), (11,))),
        (["a", " a"], ((10,), (11,))),
        (["Z"], ((2,), (1, 2))),
        (["a-bb"], ((10, 20), (11, 21))),
    ],
    ids=["words", "spaces before", "twice", "space is a token", "several tokens"],
)
def test_a_bad_word_is_banned_with_and_without_a_space_before_it(words, expected):
    assert bad_words(*words) == expected


def test_a_bad_word_outside_the_vocabulary_is_refused():
    assert bad_words("ccc", vocab_size=32) == ((30,), (31,))
    for word in ("ccc", "a-ccc"):
        with pytest.raises(InvalidParameterError) as caught:
            bad_words("bb", word, vocab_size=31)
        assert f"bad_words has '{word}'" in str(caught.value)
        assert "31]" in str(caught.value)
        assert "the model has 0 to 30" in str(caught.value)
        assert caught.value.parameter == "bad_words"
        assert caught.value.value == ("bb", word)


def test_a_bad_word_without_a_token_is_refused():
    with pytest.raises(InvalidParameterError, match=r"its token ids are \[\]"):
        bad_words("")
