# SPDX-License-Identifier: Apache-2.0

"""Every kind of structure and of bad word on every kind of tokenizer.

A random model writes: in each step it takes any token that the structure allows.
"""

from __future__ import annotations

import functools
import json
import random
import re

import pytest
from text.tokenizer_kinds import SMALL, real, real_files

from unillm import StructuredOutputs
from unillm.text.grammar import GrammarCompiler
from unillm.text.loading import load_tokenizer
from unillm.text.prompts import tokenise_bad_words

KINDS = [
    *(pytest.param(name, id=name) for name in SMALL),
    *(pytest.param(name, id=name) for name in real_files()),
]

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"enum": ["fox", "the dog"]},
        "grade": {"type": "integer", "minimum": 0, "maximum": 99},
        "right": {"type": "boolean"},
    },
    "required": ["name", "grade", "right"],
    "additionalProperties": False,
}
WORDS = ["yes", "no", "the fox", "the lazy dog"]
STRUCTURES = {
    "json": (
        {"json": SCHEMA},
        '{"name": "the dog", "grade": 7, "right": false}',
        lambda text: list(json.loads(text)) == ["name", "grade", "right"],
    ),
    "json without spaces": (
        {"json": SCHEMA, "disable_any_whitespace": True},
        '{"name":"fox","grade":42,"right":true}',
        lambda text: json.loads(text)["name"] in ("fox", "the dog"),
    ),
    "json object": (
        {"json_object": True, "disable_any_whitespace": True},
        '{"list":[1,null]}',
        lambda text: isinstance(json.loads(text), dict),
    ),
    "regex": (
        {"regex": "(the )?[a-f]{1,6} says [0-9]{2}"},
        "the deed says 42",
        lambda text: re.fullmatch("(the )?[a-f]{1,6} says [0-9]{2}", text),
    ),
    "choice": ({"choice": WORDS}, "the lazy dog", lambda text: text in WORDS),
    "grammar": (
        {"grammar": 'start: "(" start ")" | "yes" | "no"'},
        "((yes))",
        lambda text: re.fullmatch(r"(\()*(yes|no)(\))*", text),
    ),
    "gbnf": (
        {"grammar": 'root ::= ("the" | "the ") word\nword ::= [a-z]{1,3} | " " "x"'},
        "the fox",
        lambda text: re.fullmatch("the( )?([a-z]{1,3}| x)", text),
    ),
}


@functools.cache
def tokenizer_of(name):
    source = SMALL[name]() if name in SMALL else real(real_files()[name])
    return load_tokenizer(source)


@functools.cache
def compiler_of(name):
    tokenizer = tokenizer_of(name)
    return GrammarCompiler(tokenizer, vocab_size=tokenizer.vocab_size, eos_ids=[2])


def allowed(state):
    mask = state.allowed()
    assert not state.error
    return [
        8 * place + bit
        for place, byte in enumerate(mask)
        if byte
        for bit in range(8)
        if byte >> bit & 1
    ]


def write(name, wanted, rng, *, most=100):
    """Return the ids that a random model writes before the EOS token, if it ends."""
    state = compiler_of(name).compile(StructuredOutputs(**wanted)).start()
    ids = []
    while len(ids) < most:
        token_id = rng.choice(allowed(state))
        state.accept(token_id)
        assert not state.error
        if token_id == 2:
            return ids
        ids.append(token_id)
    return None


def text_of(name, ids):
    return b"".join(tokenizer_of(name).pieces[i] for i in ids).decode()


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("name", KINDS)
def test_whatever_tokens_are_taken_the_text_conforms(name, structure):
    wanted, _, conforms = STRUCTURES[structure]
    rng = random.Random(f"{name} {structure}")

    endless = structure == "json object"  # a random model seldom ends it
    written = [write(name, wanted, rng) for _ in range(2 if endless else 12)]

    ended = [text_of(name, ids) for ids in written if ids is not None]
    assert ended or endless
    assert [text for text in ended if not conforms(text)] == []


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("name", KINDS)
def test_the_usual_tokens_of_a_text_that_conforms_are_allowed(name, structure):
    wanted, text, _ = STRUCTURES[structure]
    ids = tokenizer_of(name).spelling.ids(text)
    assert ids is not None

    state = compiler_of(name).compile(StructuredOutputs(**wanted)).start()

    for token_id in ids:
        assert token_id in allowed(state), (token_id, text)
        state.accept(token_id)
    assert 2 in allowed(state)


@pytest.mark.parametrize("name", KINDS)
def test_a_text_that_must_follow_is_written_as_it_is(name):
    text = "the lazy fox says: yes"

    ids = write(name, {"choice": [text]}, random.Random(0))

    assert text_of(name, ids) == text


# ---------------------------------------------------------------------------- spelling


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    "text",
    ["described", " described", "the", "{", '{"name": ', "7", ", ", "日本", "  "],
)
def test_a_spelling_is_exactly_the_text(name, text):
    tokenizer = tokenizer_of(name)

    ids = tokenizer.spelling.ids(text)

    if ids is None:
        assert not tokenizer.spelling.complete
    else:
        assert text_of(name, ids) == text
        assert tokenizer.special_token_ids.isdisjoint(ids)


@pytest.mark.parametrize(
    "name", [name for name in SMALL if name.startswith("byte") or name == "llama 2"]
)
def test_a_spelling_has_the_usual_tokens_of_its_place(name):
    """The ids inside a text whose words the tokenizer splits at the same places."""
    tokenizer = tokenizer_of(name)
    whole = tokenizer.encode("quick described dog", add_special_tokens=False)

    ids = tokenizer.spelling.ids(" described")

    assert any(whole[at : at + len(ids)] == ids for at in range(len(whole)))


# --------------------------------------------------------------------------- bad words


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("word", ["described", " described", "fox", "7"])
def test_both_forms_of_a_bad_word_are_banned(name, word):
    tokenizer = tokenizer_of(name)

    banned = tokenise_bad_words([word], tokenizer, tokenizer.vocab_size)

    texts = {text_of(name, ids) for ids in banned}
    if name.startswith("word piece") and word == "7":  # written without a space alone
        assert texts >= {"7"}
    else:
        assert texts == {word.strip(), f" {word.strip()}"}


@pytest.mark.parametrize("name", [name for name in SMALL if "piece bpe" not in name])
def test_the_name_of_a_special_token_bans_the_token(name):
    tokenizer = tokenizer_of(name)
    [usual] = tokenizer.encode("</s>", add_special_tokens=False)[-1:]

    banned = tokenise_bad_words(["</s>"], tokenizer, tokenizer.vocab_size)

    assert ((2,) in banned) is (usual == 2)
    state = compiler_of(name).compile(StructuredOutputs(choice=["</s>!"])).start()
    assert 2 not in allowed(state)


def test_tokens_beyond_the_rows_of_the_model_are_not_used():
    backend = SMALL["byte level"]()
    rows = backend.get_vocab_size()
    backend.add_tokens(["tool call"])
    tokenizer = load_tokenizer(backend)
    assert tokenizer.encode("tool call", add_special_tokens=False) == [rows]

    [plain, _] = tokenise_bad_words(["tool call"], tokenizer, rows)
    state = (
        GrammarCompiler(tokenizer, vocab_size=rows, eos_ids=[2])
        .compile(StructuredOutputs(choice=["a tool call now"]))
        .start()
    )
    written = []
    while (token_id := allowed(state)[0]) != 2:
        state.accept(token_id)
        written.append(token_id)

    assert tokenizer.pieces.text(plain) == "tool call"
    assert tokenizer.pieces.text(written) == "a tool call now"
    assert max([*plain, *written]) < rows


def test_a_word_without_tokens_needs_no_ban():
    tokenizer = tokenizer_of("unigram")

    assert tokenise_bad_words(["Привет"], tokenizer, tokenizer.vocab_size) == ()
