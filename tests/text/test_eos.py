# SPDX-License-Identifier: Apache-2.0

"""EOS tokens: every source counts, and each is named."""

from __future__ import annotations

import logging
import time

import pytest

from unillm.errors import EosNotFoundError, ModelLoadError
from unillm.files import read_json
from unillm.text.eos import EosSource, resolve_eos
from unillm.text.loading import load_tokenizer
from unillm.text.tokenizer import RustTokenizer


class Named:
    """A caller's tokenizer of ten ids."""

    vocab_size = 10

    def __init__(self, eos_token_id=None):
        self.eos_token_id = eos_token_id

    def encode(self, text):
        return [1]

    def decode(self, ids):
        return "x" * len(ids)


def named(eos_token_id=None):
    return load_tokenizer(Named(eos_token_id))


@pytest.fixture(scope="session")
def llama3(llama3_dir):
    return load_tokenizer(llama3_dir)


def test_llama_3_1_has_three_eos_tokens_with_their_sources(llama3, llama3_dir):
    eos = resolve_eos(
        llama3,
        generation_config=read_json(llama3_dir, "generation_config.json"),
        config=read_json(llama3_dir, "config.json"),
    )

    configs = ("generation_config.json", "config.json")
    assert eos.ids == frozenset({1, 4, 5})
    assert eos.primary == 1
    assert eos.sources == (
        EosSource(1, "<|end_of_text|>", (*configs, "tokenizer")),
        EosSource(4, "<|eom_id|>", configs),
        EosSource(5, "<|eot_id|>", (*configs, "chat template")),
    )


def test_an_end_of_turn_that_no_config_names_is_an_eos_token(llama3):
    eos = resolve_eos(llama3)

    assert eos.ids == frozenset({1, 5})
    assert eos.sources[1] == EosSource(5, "<|eot_id|>", ("chat template",))


@pytest.mark.parametrize(
    ("value", "expected"),
    [(4, {4, 1}), ([4, 5], {4, 5, 1}), (None, {1}), ([], {1})],
    ids=["int", "list", "null", "empty list"],
)
def test_a_config_names_one_id_or_several_or_none(value, expected):
    eos = resolve_eos(named(1), generation_config={"eos_token_id": value})

    assert eos.ids == expected


def test_an_absent_key_names_none():
    assert resolve_eos(named(1), generation_config={}, config={}).ids == {1}


def test_a_multimodal_config_names_it_one_deeper():
    config = {"text_config": {"eos_token_id": 7}}

    assert resolve_eos(named(), config=config).ids == {7}


def test_without_an_eos_of_the_tokenizer_the_first_id_is_primary():
    eos = resolve_eos(
        named(), generation_config={"eos_token_id": [5, 3]}, config={"eos_token_id": 2}
    )

    assert (eos.primary, eos.ids) == (5, {5, 3, 2})


@pytest.mark.parametrize("outside", [-1, 10, 32_021])
def test_an_id_of_a_config_outside_the_vocabulary_is_ignored_and_listed(outside):
    eos = resolve_eos(named(1), config={"eos_token_id": [outside, 1]})

    assert eos.ids == {1}
    assert eos.ignored == (EosSource(outside, None, ("config.json",)),)


def test_an_id_without_a_row_of_the_model_is_ignored(llama3):
    """A tokenizer with tokens that were added without a new row for each."""
    eos = resolve_eos(llama3, config={"eos_token_id": [1, 5, 6], "vocab_size": 5})

    assert eos.ids == {1}
    assert eos.ignored == (
        EosSource(5, "<|eot_id|>", ("config.json", "chat template")),
        EosSource(6, llama3.id_to_token(6), ("config.json",)),
    )


def test_the_error_without_a_usable_id_names_those_that_are_outside(llama3):
    with pytest.raises(EosNotFoundError) as caught:
        resolve_eos(llama3, config={"eos_token_id": [400], "vocab_size": 1})

    message = str(caught.value)
    assert "outside the vocabulary of the model, whose ids are 0 to 0" in message
    assert "400 (config.json), 1 (tokenizer), 5 (chat template)" in message


def test_a_padded_vocabulary_of_the_model_counts():
    config = {"eos_token_id": 11, "vocab_size": 16}

    assert resolve_eos(named(), config=config).ids == {11}


@pytest.mark.parametrize("value", ["</s>", 2.0, True, [1, "</s>"], {"id": 1}])
def test_another_value_than_an_id_is_refused_with_its_file(value):
    with pytest.raises(ModelLoadError, match=r"eos_token_id in config\.json .* got"):
        resolve_eos(named(1), config={"eos_token_id": value})


def test_the_error_without_a_source_lists_the_files(sentencepiece_dir, gpt2):
    with pytest.raises(EosNotFoundError, match=r"config\.json") as caught:
        resolve_eos(load_tokenizer(gpt2), config={"eos_token_id": None})

    assert caught.value.files == ("config.json",)


def test_an_id_outside_the_vocabulary_is_not_a_source(gpt2):
    with pytest.raises(EosNotFoundError, match=r"outside .* -1 \(config"):
        resolve_eos(load_tokenizer(gpt2), config={"eos_token_id": -1})


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ messages[1].content }}<|eom_id|>\n", {1, 4}),
        ("{{ messages[1].content }} <|eom_id|>", {1, 4}),
        ("{{ messages[1].content }}\nUser:", {1}),
        ("{{ messages[0].content }}<|eom_id|>", {1}),
        ("{{ raise_exception('no') }}", {1}),
        ("{{ messages[1].content }", {1}),
    ],
    ids=["behind", "after a space", "no token", "no answer", "refuses", "broken"],
)
def test_the_end_of_turn_is_the_special_token_behind_the_answer(
    llama3, template, expected
):
    backend = llama3.wrapped.backend_tokenizer
    tokenizer = RustTokenizer(backend, chat_templates={"default": template})

    assert resolve_eos(tokenizer, config={"eos_token_id": 1}).ids == expected


TURNS = "{% for m in messages %}<|start_header_id|>{{ m.role }}\n"
NEXT_TURN = "<|start_header_id|>assistant\n"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("<|begin_of_text|>{{ messages[0].content }}", {1}),
        ("<|start_header_id|>user\n{{ messages[0].content }}" + NEXT_TURN, {1}),
        (TURNS + "{{ m.content }}\n{% endfor %}" + NEXT_TURN, {1}),
        ("<|begin_of_text|>" + TURNS + "{{ m.content }}{% endfor %}" + NEXT_TURN, {1}),
        (TURNS + "{{ m.content }}<|eot_id|>\n{% endfor %}" + NEXT_TURN, {1, 5}),
        (
            "<|start_header_id|>system\nbe kind<|eot_id|>"
            + TURNS
            + "{{ m.content }}<|eot_id|>{% endfor %}",
            {1, 5},
        ),
        (TURNS + "<|eom_id|>{{ m.content }}{% endfor %}<|eom_id|>", {1}),
        (TURNS + "{{ m.content[0].text }}<|eot_id|>{% endfor %}", {1, 5}),
    ],
    ids=[
        "no answer behind BOS",
        "no answer behind a turn",
        "always a next turn",
        "always a next turn behind BOS",
        "an end and a next turn",
        "a system message of its own",
        "always a next answer",
        "parts",
    ],
)
def test_a_token_that_begins_a_turn_is_not_an_eos_token(llama3, template, expected):
    backend = llama3.wrapped.backend_tokenizer
    tokenizer = RustTokenizer(backend, chat_templates={"default": template})

    assert resolve_eos(tokenizer, config={"eos_token_id": 1}).ids == expected


def test_templates_that_do_not_end_take_two_seconds_together(llama3, caplog):
    never = (
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    )
    shown = "{{ messages[-1].content }}<|eom_id|>"
    templates = {"default": shown} | {str(n): never + str(n) for n in range(20)}
    tokenizer = RustTokenizer(
        llama3.wrapped.backend_tokenizer, chat_templates=templates
    )
    started = time.perf_counter()

    with caplog.at_level(logging.WARNING, "unillm"):
        found = resolve_eos(tokenizer)

    assert time.perf_counter() - started < 3
    assert [source.token for source in found.sources] == ["<|eom_id|>"]
    assert "were not rendered in 2 s" in caplog.text


def test_the_ends_of_turn_of_all_named_templates_count(llama3):
    tokenizer = RustTokenizer(
        llama3.wrapped.backend_tokenizer,
        chat_templates={
            "default": "{{ messages[-1].content }}<|eot_id|>",
            "tool_use": "{{ messages[-1].content }}<|eom_id|>",
        },
    )

    assert resolve_eos(tokenizer, config={"eos_token_id": 1}).ids == {1, 4, 5}
