# SPDX-License-Identifier: Apache-2.0

"""Incremental text against an oracle that decodes everything anew."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from text.oracle import FFFD, KINDS, added_text, id_of, stop_of

from unillm import SamplingParams
from unillm.text.detokenizer import Detokenizer, decode_token
from unillm.text.loading import load_tokenizer
from unillm.text.pieces import EACH_BYTE, Pieces

FAMILIES = list(KINDS)


def oracle(family, tokenizer, prompt, ids, *, skip=True):
    """Return the text that *ids* add behind *prompt*, decoded from scratch."""
    return added_text(KINDS[family], tokenizer, prompt, ids, skip=skip)


def push_all(detokenizer, ids):
    texts = []
    for i in ids:
        texts.append(detokenizer.push(i))
        if detokenizer.matched_stop is not None:
            return texts
    return [*texts, detokenizer.finish()]


def new(tokenizer, prompt=(), **params):
    return Detokenizer(
        tokenizer, prompt_token_ids=prompt, params=SamplingParams(**params)
    )


# ------------------------------------------------------------------ exactness, any ids


prompts = st.sampled_from(["hello", "the old town ", "日本", "x\n\n", "a 🎉"])


@st.composite
def some_ids(draw, tokenizer, max_size=30):
    """Ids of the vocabulary; those of single bytes and special ones come often."""
    size = min(tokenizer.vocab_size, 12_500)
    rare = sorted(tokenizer.special_token_ids) or [1]
    ids = st.integers(0, size - 1) | st.integers(0, min(size, 270) - 1)
    return draw(st.lists(ids | st.sampled_from(rare), max_size=max_size))


@pytest.mark.property
@pytest.mark.parametrize("family", FAMILIES)
@given(data=st.data(), prompt=prompts, skip=st.booleans())
def test_pushed_text_is_what_decode_adds_behind_the_prompt(
    families, family, data, prompt, skip
):
    tokenizer = families[family]
    prompt_ids = tokenizer.encode(prompt, add_special_tokens=True)
    ids = data.draw(some_ids(tokenizer))
    detokenizer = new(tokenizer, prompt_ids, skip_special_tokens=skip)

    texts = push_all(detokenizer, ids)

    assert oracle(family, tokenizer, prompt_ids, ids, skip=skip) == "".join(texts)


@pytest.mark.property
@pytest.mark.parametrize("family", FAMILIES)
@given(data=st.data(), prompt=prompts)
def test_returned_text_never_changes(families, family, data, prompt):
    tokenizer = families[family]
    prompt_ids = tokenizer.encode(prompt, add_special_tokens=True)
    ids = data.draw(some_ids(tokenizer, max_size=24))
    detokenizer = new(tokenizer, prompt_ids)

    out = ""
    for count, i in enumerate(ids, start=1):
        out += detokenizer.push(i)

        assert oracle(family, tokenizer, prompt_ids, ids[:count]) == out


@pytest.mark.property
@pytest.mark.parametrize("family", sorted({*FAMILIES} - {"bytes"}))
@given(text=st.text(max_size=20), data=st.data())
def test_encoded_text_comes_back_without_a_start(families, family, text, data):
    """With no visible prompt the completion is the whole text, leading space and all."""
    tokenizer = families[family]
    text = text.rstrip(FFFD)  # it is left out, as in vLLM
    ids = tokenizer.encode(text, add_special_tokens=False)
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    prompt = data.draw(st.sampled_from([[], bos]))

    out = "".join(push_all(new(tokenizer, prompt), ids))

    assert tokenizer.decode(ids, skip_special_tokens=True) == out


@pytest.mark.property
@given(cut=st.integers(0, 40), text=st.text(min_size=1, max_size=12))
def test_a_character_split_by_the_prompts_end_belongs_to_the_completion(
    families, cut, text
):
    tokenizer = families["gpt2"]
    ids = tokenizer.encode(text, add_special_tokens=False)
    prompt, rest = ids[:cut], ids[cut:]

    out = "".join(push_all(new(tokenizer, prompt), rest))

    whole_characters = oracle("gpt2", tokenizer, [], prompt)
    assert whole_characters + out == text


@pytest.mark.property
@given(data=st.data())
def test_sentencepiece_itself_gives_the_same_text(families, processor, data):
    """The library's own decode is the outer oracle of the byte fallback above."""
    tokenizer = families["sentencepiece"]
    ids = data.draw(st.lists(st.integers(3, processor.vocab_size() - 1), max_size=20))
    anchor = processor.piece_to_id("e")
    tail = [processor.piece_to_id("x")]  # so that no character is left open

    out = "".join(push_all(new(tokenizer, [anchor]), ids + tail))

    assert processor.decode([anchor, *ids, *tail]) == "e" + out


@pytest.mark.property
@given(text=st.text(max_size=20))
def test_valid_byte_fallback_is_what_hugging_face_decodes(families, text):
    tokenizer = families["llama2"]
    ids = tokenizer.encode("x " + text, add_special_tokens=False)

    out = "".join(push_all(new(tokenizer), ids))

    assert tokenizer.decode(ids, skip_special_tokens=True) == out == "x " + text


@pytest.mark.parametrize(
    ("family", "part"),
    [("gpt2", "Ã"), ("llama2", "<0xC3>"), ("sentencepiece", "<0xC3>")],
)
def test_an_id_that_was_met_before_follows_the_part_of_a_character(
    families, family, part
):
    tokenizer = families[family]
    letter, part = id_of(tokenizer, "e"), id_of(tokenizer, part)

    texts = push_all(new(tokenizer, [letter]), [letter, part, letter, part, letter])

    assert texts == ["e", "", FFFD + "e", "", FFFD + "e", ""]


@pytest.mark.parametrize("family", ["bytes", "word_ends", "sentencepiece"])
def test_a_long_run_of_one_token_stays_exact(families, family):
    tokenizer = families[family]
    prompt = tokenizer.encode("hello", add_special_tokens=False)
    blank = {"bytes": 0xFF, "word_ends": 5}.get(family) or id_of(tokenizer, "▁")
    ids = [blank] * 300 + tokenizer.encode("town", add_special_tokens=False)

    out = "".join(push_all(new(tokenizer, prompt), ids))

    assert oracle(family, tokenizer, prompt, ids) == out


def test_spaces_before_a_caller_objects_words_survive_a_long_blank():
    """A decode that strips its start, as sentencepiece models do, seen as an object."""

    class Stripping:
        vocab_size = 3

        def encode(self, text):
            return [0]

        def decode(self, ids):
            return "".join("x ▁"[i] for i in ids).replace("▁", " y").lstrip()

    ids = [1] * 50 + [2] + [1] * 50 + [2]

    out = "".join(push_all(new(load_tokenizer(Stripping()), [0]), ids))

    assert out == " " * 51 + "y" + " " * 51 + "y"


def test_a_leading_space_is_kept_behind_a_prompt(families):
    tokenizer = families["llama2"]
    world = id_of(tokenizer, "▁w")

    assert (
        new(tokenizer, tokenizer.encode("hello", add_special_tokens=True)).push(world)
        == " w"
    )
    assert new(tokenizer, [tokenizer.bos_token_id]).push(world) == "w"


def test_a_character_is_returned_with_its_last_byte(families):
    tokenizer = families["sentencepiece"]
    ids = [id_of(tokenizer, f"<0x{byte:02X}>") for byte in "😀".encode()]

    assert push_all(new(tokenizer, [5]), ids) == ["", "", "", "😀", ""]


def test_an_incomplete_character_at_the_end_is_dropped(families):
    tokenizer = families["gpt2"]
    ids = tokenizer.encode("ok 😀", add_special_tokens=False)[:-1]

    assert "".join(push_all(new(tokenizer), ids)) == "ok "


def test_invalid_bytes_are_shown_before_further_text_and_left_out_at_the_end(families):
    tokenizer = families["gpt2"]
    invalid, letter = id_of(tokenizer, "ÿ"), id_of(tokenizer, "a")  # the byte 0xFF

    texts = push_all(new(tokenizer), [letter, invalid, invalid, letter, invalid])

    assert texts == ["a", "", "", FFFD * 2 + "a", "", ""]


def test_a_stop_token_in_the_middle_of_a_character_leaves_the_bytes_out(families):
    tokenizer = families["llama3"]
    ids = tokenizer.encode("ok 😀", add_special_tokens=False)[:-1]
    detokenizer = new(tokenizer)

    text = "".join(map(detokenizer.push, ids))

    assert text + detokenizer.finish(stop_token_id=5) == "ok "


@pytest.mark.parametrize("family", ["gpt2", "llama3", "llama2", "sentencepiece"])
def test_wherever_a_completion_ends_its_text_is_its_whole_characters(families, family):
    tokenizer = families[family]
    prompt = tokenizer.encode("x", add_special_tokens=False)
    ids = tokenizer.encode("日本 🎉 naïve 𐍈", add_special_tokens=False)
    ends = {
        tokenizer.decode([*prompt, *ids[:n]], skip_special_tokens=True)
        for n in range(len(ids))
    }
    assert any(text.endswith(FFFD) for text in ends)

    for count in range(len(ids) + 1):
        shown = tokenizer.decode([*prompt, *ids[:count]], skip_special_tokens=True)
        start = tokenizer.decode(prompt, skip_special_tokens=True)

        out = "".join(push_all(new(tokenizer, prompt), ids[:count]))

        assert start + out == shown.rstrip(FFFD)


def test_special_tokens_show_only_when_asked(families):
    tokenizer = families["llama3"]
    ids = tokenizer.encode("a<|eot_id|>b", add_special_tokens=False)

    assert "".join(push_all(new(tokenizer), ids)) == "ab"
    assert (
        "".join(push_all(new(tokenizer, skip_special_tokens=False), ids))
        == "a<|eot_id|>b"
    )


def test_an_id_without_a_token_adds_nothing(families):
    for name in ("gpt2", "sentencepiece", "llama2", "word_pieces"):
        tokenizer = families[name]

        assert new(tokenizer, [9]).push(tokenizer.vocab_size + 7) == ""


# ------------------------------------------------------------------------ stop strings


def open_end(text, stops):
    """The longest end of *text* that is the beginning of a stop string."""
    return max(
        (
            length
            for stop in stops
            for length in range(1, len(stop))
            if text.endswith(stop[:length])
        ),
        default=0,
    )


@st.composite
def stopping(draw):
    """Text of few letters in tokens of any cut, and stop strings of the same letters."""
    pieces = draw(st.lists(st.text("ab ", max_size=4), max_size=14))
    stops = draw(
        st.lists(
            st.text("ab ", min_size=1, max_size=5), min_size=1, max_size=3, unique=True
        )
    )
    return pieces, stops


class Scripted:
    """Each id is a text of its own."""

    def __init__(self, pieces):
        self.pieces = ["x", *pieces]
        self.vocab_size = len(self.pieces)

    def encode(self, text):
        raise NotImplementedError

    def decode(self, ids):
        return "".join(self.pieces[i] for i in ids)


@pytest.mark.property
@given(case=stopping(), min_tokens=st.integers(0, 4), keep=st.booleans())
def test_stop_strings_cut_where_the_oracle_says(case, min_tokens, keep):
    pieces, stops = case
    texts = ["".join(pieces[:count]) for count in range(len(pieces) + 1)]
    count, stop, text = stop_of(texts, stops, min_tokens, keep)
    detokenizer = new(
        load_tokenizer(Scripted(pieces)),
        [0],
        stop=stops,
        min_tokens=min_tokens,
        include_stop_str_in_output=keep,
    )

    out = push_all(detokenizer, range(1, len(pieces) + 1))

    assert detokenizer.matched_stop == stop
    assert "".join(out) == text
    assert len(out) - (stop is None) == count


@pytest.mark.property
@given(case=stopping())
def test_exactly_a_possible_stop_string_is_held_back(case):
    pieces, stops = case
    detokenizer = new(load_tokenizer(Scripted(pieces)), [0], stop=stops)

    text = out = ""
    for i, piece in enumerate(pieces, start=1):
        text += piece
        out += detokenizer.push(i)
        if detokenizer.matched_stop is not None:
            return

        assert out == text[: len(text) - open_end(text, stops)]


@pytest.mark.property
@pytest.mark.parametrize("family", ["llama3", "sentencepiece", "llama2"])
@given(data=st.data(), prompt=prompts, keep=st.booleans(), min_tokens=st.integers(0, 5))
def test_stop_strings_are_exact_on_real_tokens(
    families, family, data, prompt, keep, min_tokens
):
    tokenizer = families[family]
    prompt_ids = tokenizer.encode(prompt, add_special_tokens=True)
    ids = data.draw(some_ids(tokenizer, max_size=16))
    texts = [
        oracle(family, tokenizer, prompt_ids, ids[:count])
        for count in range(len(ids) + 1)
    ]
    # Stop strings that are somewhere in the text, and some that are not.
    places = st.integers(0, max(0, len(texts[-1]) - 1))
    found = st.builds(lambda a, n: texts[-1][a : a + n], places, st.integers(1, 4))
    stops = data.draw(
        st.lists(
            found.filter(bool) if texts[-1] else st.just("z"), min_size=1, max_size=2
        )
    )
    stops = list(dict.fromkeys(stops))
    _, stop, text = stop_of(texts, stops, min_tokens, keep)
    detokenizer = new(
        tokenizer,
        prompt_ids,
        stop=stops,
        min_tokens=min_tokens,
        include_stop_str_in_output=keep,
    )

    out = push_all(detokenizer, ids)

    assert (detokenizer.matched_stop, "".join(out)) == (stop, text)


@pytest.mark.parametrize(
    ("stops", "expected"),
    [
        (["cde", "bc"], ("bc", "a")),
        (["bcd", "cd"], ("bcd", "a")),
        (["cd", "bcd"], ("cd", "ab")),
    ],
    ids=["earliest end wins", "tie goes to the first", "whichever that is"],
)
def test_the_stop_string_that_completes_first_wins(stops, expected):
    detokenizer = new(load_tokenizer(Scripted(["abcdef"])), [0], stop=stops)

    text = detokenizer.push(1)

    assert (detokenizer.matched_stop, text) == expected


def test_a_long_text_with_a_long_stop_string_takes_linear_time():
    import time

    pieces = ["ab" * 50] * 400
    detokenizer = new(load_tokenizer(Scripted(pieces)), [0], stop="ab" * 5000 + "c")

    start = time.perf_counter()
    out = push_all(detokenizer, range(1, 401))

    assert "".join(out) == "".join(pieces)
    assert time.perf_counter() - start < 10


# --------------------------------------------------------------- the token that ended it


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, "hi"),
        ({"include_stop_str_in_output": True}, "hi"),
        ({"skip_special_tokens": False}, "hi"),
        (
            {"include_stop_str_in_output": True, "skip_special_tokens": False},
            "hi<|eot_id|>",
        ),
    ],
    ids=["default", "special is skipped", "stop is left out", "both asked"],
)
def test_an_eos_token_shows_only_when_both_fields_ask(families, params, expected):
    tokenizer = families["llama3"]
    detokenizer = new(tokenizer, [9], **params)

    text = "".join(
        map(detokenizer.push, tokenizer.encode("hi", add_special_tokens=False))
    )
    text += detokenizer.finish(stop_token_id=id_of(tokenizer, "<|eot_id|>"))

    assert text == expected


def test_a_plain_stop_token_shows_when_asked():
    tokenizer = load_tokenizer(Scripted(["hi", " stop"]))
    detokenizer = new(tokenizer, [0], include_stop_str_in_output=True)

    assert detokenizer.push(1) + detokenizer.finish(stop_token_id=2) == "hi stop"


def test_held_back_text_is_returned_at_the_end():
    detokenizer = new(load_tokenizer(Scripted(["so", " st"])), [0], stop=" stop")

    assert push_all(detokenizer, [1, 2]) == ["so", "", " st"]


# ------------------------------------------------------------------------- single tokens


def test_a_single_token_keeps_its_space_and_shows_a_part_of_a_character(families):
    sentencepieces = families["sentencepiece"]
    bytes_ = families["gpt2"]

    assert decode_token(sentencepieces, id_of(sentencepieces, "▁w")) == " w"
    assert decode_token(sentencepieces, sentencepieces.eos_token_id) == "</s>"
    assert decode_token(bytes_, id_of(bytes_, "Ã")) == FFFD
    assert decode_token(families["letters"], ord("A")) == "A"


class TwoPieces:
    """A tokenizer whose only ids add these bytes."""

    special_token_ids = frozenset()
    pieces = Pieces(
        (b"a\xed\xa0", b"b", b"\xe2\x82", b"\xac!").__getitem__,
        errors=EACH_BYTE,
        start_matters=False,
    )


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ((0, 1), ["a", "\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}b"]),
        ((1, 2, 3), ["b", "", "€!"]),
        ((2, 1), ["", "\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}b"]),
    ],
)
def test_text_before_invalid_bytes_is_kept(ids, expected):
    detokenizer = Detokenizer(TwoPieces(), prompt_token_ids=(), params=SamplingParams())

    assert [detokenizer.push(token_id) for token_id in ids] == expected


def test_without_detokenising_there_is_no_text(families):
    tokenizer = families["gpt2"]
    params = SamplingParams(detokenize=False)
    detokenizer = Detokenizer(tokenizer, prompt_token_ids=(), params=params)
    ids = tokenizer.encode("hello", add_special_tokens=False)

    assert {detokenizer.push(token_id) for token_id in ids} == {""}
    assert detokenizer.finish() == ""
