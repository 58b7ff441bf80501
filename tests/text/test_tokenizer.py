# SPDX-License-Identifier: Apache-2.0

"""Every kind of tokenizer behind one interface, none changed by it."""

from __future__ import annotations

import copy

import pytest
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from unillm.errors import TokenizerError
from unillm.text.loading import load_tokenizer
from unillm.text.tokenizer import Tokenizer


def test_a_sentencepiece_model_decodes_as_hugging_face_reads_it(
    sentencepiece_dir, llama2
):
    ours = load_tokenizer(sentencepiece_dir)
    theirs = load_tokenizer(llama2)
    ids = ours.encode("hello 🎉 the old town", add_special_tokens=True)

    for skip in (True, False):
        assert theirs.decode(ids, skip_special_tokens=skip).replace("<s> ", "<s>") == (
            ours.decode(ids, skip_special_tokens=skip).replace("<s> ", "<s>")
        )


def test_any_object_with_encode_and_decode_is_a_tokenizer(families):
    tokenizer = families["letters"]

    assert isinstance(tokenizer, Tokenizer)
    assert tokenizer.encode("ab", add_special_tokens=True) == [97, 98]
    assert tokenizer.decode([97, 0, 98], skip_special_tokens=True) == "ab"
    assert tokenizer.eos_token_id == 0


@pytest.mark.parametrize(
    ("attributes", "size"),
    [
        ({}, None),
        ({"n_vocab": 3}, 3),
        ({"__len__": lambda _: 3}, 3),
        ({"vocab_size": 3, "__len__": lambda _: 1 // 0}, 3),
    ],
    ids=["none", "n_vocab", "len", "vocab_size"],
)
def test_the_size_of_an_object_is_the_first_that_it_names(attributes, size):
    methods = {"encode": lambda _, text: [1], "decode": lambda _, ids: "x"}
    tokenizer = type("Own", (), methods | attributes)()

    assert load_tokenizer(tokenizer).vocab_size == size


def test_a_token_of_an_object_is_a_text_or_nothing():
    class Numbers:
        def encode(self, text):
            return [len(text)] * (1 + text.count(" "))

        def decode(self, ids):
            return "x"

        def convert_ids_to_tokens(self, token_id):
            return "seven" if token_id == 7 else [token_id]

    tokenizer = load_tokenizer(Numbers())

    assert [tokenizer.id_to_token(n) for n in (7, 8)] == ["seven", None]


def test_an_object_without_encode_and_decode_is_refused():
    with pytest.raises(TokenizerError, match="object has no encode and no decode"):
        load_tokenizer(object())


def test_special_tokens_are_left_out_of_what_an_object_decodes():
    class Special:
        vocab_size = 3
        all_special_ids = (2,)

        def encode(self, text):
            return [0]

        def decode(self, ids):
            return "".join("ab!"[i] for i in ids)

    tokenizer = load_tokenizer(Special())

    assert tokenizer.decode([0, 2, 1], skip_special_tokens=True) == "ab"
    assert tokenizer.decode([0, 2, 1], skip_special_tokens=False) == "a!b"


def test_a_python_tokenizer_of_transformers_is_wrapped(tmp_path):
    """One id a byte, from 3 on; the ids before it are special."""
    ByT5Tokenizer(extra_ids=0).save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    ids = [3 + byte for byte in "a ñ .".encode()]

    assert tokenizer.encode("a ñ .", add_special_tokens=False) == ids
    assert tokenizer.encode("a ñ .", add_special_tokens=True) == [*ids, 1]
    assert tokenizer.decode([*ids, 1], skip_special_tokens=True) == "a ñ ."
    assert tokenizer.decode([*ids, 1], skip_special_tokens=False) == "a ñ .</s>"
    assert (
        tokenizer.vocab_size,
        tokenizer.eos_token_id,
        tokenizer.special_token_ids,
    ) == (259, 1, {0, 1, 2})
    assert [tokenizer.id_to_token(token_id) for token_id in (100, 1, 259, -1)] == [
        "a",
        "</s>",
        None,
        None,
    ]
    assert tokenizer.pieces is None


def test_pieces_are_known_where_ids_do_not_depend_on_their_neighbours(families):
    known = {
        name: each.pieces.start_matters
        for name, each in families.items()
        if each.pieces is not None
    }

    assert known == {
        "gpt2": False,  # bytes, wherever they stand
        "llama3": False,
        "llama2": True,  # a space is dropped at the start
        "sentencepiece": True,
        "unigram": True,
        "word_pieces": True,
    }


def test_byte_fallback_pieces_are_single_bytes(families, processor):
    size = processor.vocab_size()
    fallback = [i for i in range(size) if processor.is_byte(i)]
    assert len(fallback) == 256

    for name in ("sentencepiece", "llama2"):
        pieces = families[name].pieces
        assert [pieces[i] for i in fallback] == [bytes([n]) for n in range(256)]
        assert pieces[size + 3] == b""
    assert families["sentencepiece"].pieces[processor.eos_id()] == b"</s>"


@pytest.mark.parametrize(
    "family", ["gpt2", "llama3", "llama2", "sentencepiece", "word_pieces", "unigram"]
)
def test_every_id_of_the_vocabulary_has_a_token_and_no_other_id(families, family):
    tokenizer = families[family]
    tokens = [tokenizer.id_to_token(i) for i in range(tokenizer.vocab_size)]

    assert None not in tokens
    assert len(set(tokens)) == len(tokens)
    assert tokenizer.id_to_token(tokenizer.vocab_size) is None


def test_the_vocabulary_size_counts_gaps_and_added_tokens(gpt2):
    assert load_tokenizer(gpt2).vocab_size == max(gpt2.get_vocab().values()) + 1


def test_a_truncating_and_padding_tokenizer_encodes_all_and_stays_so(gpt2):
    source = copy.deepcopy(gpt2)
    source.enable_truncation(2)
    source.enable_padding(length=50)
    before = source.to_str()
    tokenizer = load_tokenizer(source)

    ids = tokenizer.encode("the quick brown fox", add_special_tokens=True)

    assert ids == gpt2.encode("the quick brown fox").ids
    assert source.to_str() == before


def test_a_transformers_tokenizer_stays_as_it_was(llama3_dir):
    source = PreTrainedTokenizerFast.from_pretrained(llama3_dir, padding_side="left")
    source("b c d e f", truncation=True, max_length=2)  # it stays set
    state, backend = repr(source.__dict__), source.backend_tokenizer.to_str()
    tokenizer = load_tokenizer(source)

    ids = tokenizer.encode("the quick brown fox", add_special_tokens=True)
    tokenizer.decode(ids, skip_special_tokens=True)
    tokenizer.apply_chat_template([{"role": "user", "content": "hello"}])

    assert len(ids) > 2
    assert (repr(source.__dict__), source.backend_tokenizer.to_str()) == (
        state,
        backend,
    )
    assert source.padding_side == "left"


def test_spaces_of_decoded_text_stay(word_pieces):
    source = PreTrainedTokenizerFast(
        tokenizer_object=word_pieces, clean_up_tokenization_spaces=True
    )
    ids = source.encode("do n't . stop")

    assert load_tokenizer(source).decode(ids, skip_special_tokens=False) == (
        word_pieces.decode(ids, skip_special_tokens=False)
    )
