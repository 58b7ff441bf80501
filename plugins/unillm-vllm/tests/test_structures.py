# SPDX-License-Identifier: Apache-2.0

"""Structures and bad words on real vLLM mean what they mean on the embedded backend."""

from __future__ import annotations

import json
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers
from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

from unillm import Generator, SamplingParams
from unillm.errors import InvalidParameterError, UnsupportedParameterError

COUNT = "Count from 3 to 9:"


def params(**fields) -> SamplingParams:
    return SamplingParams(**{"temperature": 0, "max_tokens": 60, **fields})


def structured(**wanted) -> SamplingParams:
    return params(structured_outputs=wanted)


OPTIONS = [f"the option {number} {'xyz'[number % 3] * 8}" for number in range(10_000)]
SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["fox", "the dog"]}, "Right": {"type": "boolean"}},
    "required": ["name", "Right"],
    "additionalProperties": False,
}
SHARED_VALUES = {"oneOf": [{"enum": ["a", "b"]}, {"enum": ["b", 1]}]}


@pytest.mark.parametrize(
    ("wanted", "conforms"),
    [
        ({"choice": OPTIONS}, lambda text: text in OPTIONS),
        (
            {"grammar": 'root ::= ("a" | "ab") "bc" [0-9]{2}'},
            lambda text: re.fullmatch("ab?bc[0-9]{2}", text),
        ),
        (
            {"grammar": 'root ::= word "x"\nword ::= [a-z]{3}'},
            lambda text: re.fullmatch("[a-z]{3}x", text),
        ),
        ({"grammar": '?start: "(" start ")" | "x"'}, lambda text: "x" in text),
        ({"json": SHARED_VALUES}, lambda text: json.loads(text) in ("a", 1)),
        ({"regex": 'a/"[bc]{3}'}, lambda text: re.fullmatch('a/"[bc]{3}', text)),
    ],
    ids=["options", "gbnf", "gbnf rules", "lark", "oneOf", "regex"],
)
def test_a_structure_gives_the_same_text_on_both_backends(
    generator, reference, wanted, conforms
):
    [ours] = reference.generate(COUNT, structured(**wanted))
    [theirs] = generator.generate(COUNT, structured(**wanted))

    assert theirs.finish_reason == "stop"
    assert conforms(theirs.text)
    assert theirs.text == ours.text


@pytest.mark.parametrize(
    "wanted",
    [
        {"grammar": "root ::= other"},
        {"json": {"oneOf": [{"type": "string"}, {"const": "a"}]}},
        {"json": {"not": {"type": "string"}}},
        {"choice": ["x" * 20_000, "y"]},
    ],
    ids=str,
)
def test_a_structure_is_refused_before_vllm_sees_it(generator, reference, wanted):
    messages = set()
    for each in (generator, reference):
        with pytest.raises(InvalidParameterError) as caught:
            each.submit(COUNT, structured(**wanted))
        messages.add(str(caught.value))

    assert len(messages) == 1


# --------------------------------------------------------------------------- bad words


def test_both_forms_of_a_bad_word_are_banned_where_their_lengths_differ(
    generator, reference
):
    """ "April" has more tokens than " April" in the bundled model."""
    plain, spaced = (
        generator.get_tokenizer().encode(text, add_special_tokens=False)
        for text in ("April", " April")
    )
    assert len(plain) != len(spaced)
    free = {"allowed_token_ids": [*plain, *spaced], "ignore_eos": True}
    for bias in (plain, spaced):
        wanted = {**free, "logit_bias": dict.fromkeys(bias, 50)}

        for each in (generator, reference):
            [output] = each.generate(COUNT, params(**wanted, bad_words=["April"]))

            ids = output.token_ids
            for form in (plain, spaced):
                assert form not in [ids[at : at + len(form)] for at in range(len(ids))]


def test_a_word_that_begins_in_the_prompt_may_end_in_the_completion(
    generator, reference
):
    first, second = generator.get_tokenizer().encode("33", add_special_tokens=False)
    wanted = params(
        allowed_token_ids=[second], ignore_eos=True, max_tokens=1, bad_words=["33"]
    )

    for each in (generator, reference):
        [output] = each.generate([10, first], wanted)

        assert output.token_ids == [second]


# -------------------------------------------------------------------- other tokenizers


def byte_level(*, add_prefix_space):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = ["<unk>", "<s>", "</s>", *alphabet, "Ġt", "th", "the", '{"', "Ġfox"]
    merges = [("Ġ", "t"), ("t", "h"), ("th", "e"), ("{", '"')]
    backend = tokenizers.Tokenizer(
        models.BPE(vocab={name: i for i, name in enumerate(names)}, merges=merges)
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    return backend


def metaspace():
    letters = sorted({*'abcdefghijklmnopqrstuvwxyzR{}",: ', "▁"})
    names = ["<unk>", "<s>", "</s>", *letters]
    backend = tokenizers.Tokenizer(
        models.BPE(vocab={name: i for i, name in enumerate(names)}, merges=[])
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    return backend


def save(path, backend=None, *, vocab_size=None):
    """Save a random Mistral, and a tokenizer in Rust."""
    config = MistralConfig(
        vocab_size=vocab_size or backend.get_vocab_size(),
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
    )
    MistralForCausalLM(config).save_pretrained(path)
    if backend is not None:
        PreTrainedTokenizerFast(
            tokenizer_object=backend,
            bos_token="<s>",
            eos_token="</s>",
            unk_token="<unk>",
        ).save_pretrained(path)
    return path


WANTED = [
    {"json": SCHEMA, "disable_any_whitespace": True},
    {"regex": "(the )?[a-f]{2} Fox"},
    {"choice": ["The fox", "no"]},
    {"grammar": 'start: "Yes" | "(" start ")"'},
    {"grammar": 'root ::= "Yes" " "? [0-9]'},
]


def answers(path, **options):
    asked = [
        params(structured_outputs=each, temperature=1, seed=5, max_tokens=400)
        for each in WANTED
    ]
    with Generator(path, max_num_seqs=4, **options) as generator:
        return generator.generate([COUNT] * len(asked), asked, on_error="return")


def conform(outputs):
    json_text, regex, choice, grammar, gbnf = (output.text for output in outputs)
    assert list(json.loads(json_text)) == ["name", "Right"]
    assert re.fullmatch("(the )?[a-f]{2} Fox", regex)
    assert choice in ("The fox", "no")
    assert re.fullmatch(r"\(*Yes\)*", grammar)
    assert re.fullmatch("Yes ?[0-9]", gbnf)


def test_structures_hold_with_a_tokenizer_that_puts_a_space_first(
    tmp_path, tiny_options
):
    path = save(tmp_path, byte_level(add_prefix_space=True))

    conform(answers(path, **tiny_options))


@pytest.mark.parametrize(
    ("source", "name", "vocab_size"),
    [
        ("tokenizer.model.v1", "tokenizer.model", 32_000),
        ("tekken_240911.json", "tekken.json", 131_072),
    ],
    ids=["sentencepiece", "tekken"],
)
def test_structures_hold_with_the_tokenizers_of_mistral(
    tmp_path, tiny_options, source, name, vocab_size
):
    [folder] = find_spec("mistral_common").submodule_search_locations
    shutil.copy(Path(folder, "data", source), tmp_path / name)
    if name == "tokenizer.model":
        description = {"tokenizer_class": "LlamaTokenizer"}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(description))
    path = save(tmp_path, vocab_size=vocab_size)

    conform(answers(path, **tiny_options))
    conform(answers(path, backend="transformers"))


def test_a_tokenizer_that_vllm_cannot_use_is_refused_with_the_reason(
    tmp_path, tiny_options
):
    path = save(tmp_path, metaspace())

    outputs = answers(path, **tiny_options)

    assert {type(output) for output in outputs} == {UnsupportedParameterError}
    assert "can't determine decoder type" in str(outputs[0])
    assert "the embedded backend" in str(outputs[0])
