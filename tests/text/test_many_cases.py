# SPDX-License-Identifier: Apache-2.0

"""A hundred thousand random sequences of ids, each against the decode of the whole.

The properties of `test_detokenizer` look for the smallest case that fails; these look
at many, of every family. A case is a seed: a failure names it, and `case_of` makes it
again.
"""

from __future__ import annotations

import random
import re

import attrs
import pytest

from unillm import SamplingParams
from unillm.text.detokenizer import Detokenizer
from unillm.text.loading import load_tokenizer

CASES = 100_000
"""Over all families together."""

FFFD = "\N{REPLACEMENT CHARACTER}"

TEXTS = [
    "the quick brown fox",
    "日本語のテキスト",
    "🎉🎊 👩‍👩‍👧 é",
    "  two  spaces ",
    "def f(x):\n\treturn x\n\n",
    "naïve Zürich été",
    "\ufffd \u0000 \x7f",
    "مرحبا ١٢٣",
]


# ------------------------------------------------------------------------ the families


class ByteRanks:
    """A tokenizer of tiktoken's kind: ids are ranks of byte strings, nothing else.

    Args:
        size: Ids: the single bytes, then pieces of `TEXTS` of two to six bytes.
    """

    eos_token_id = 0

    def __init__(self, size: int = 700) -> None:
        numbers = random.Random(7)
        whole = "".join(TEXTS).encode()
        self.tokens = [bytes([byte]) for byte in range(256)]
        while len(self.tokens) < size:
            start = numbers.randrange(len(whole))
            piece = whole[start : start + numbers.randint(2, 6)]
            if piece not in self.tokens:
                self.tokens.append(piece)
        self.vocab_size = len(self.tokens)
        self._ranks = {token: rank for rank, token in enumerate(self.tokens)}

    def encode(self, text):
        data, ids = text.encode(), []
        while data:
            length = next(n for n in range(6, 0, -1) if data[:n] in self._ranks)
            ids.append(self._ranks[data[:length]])
            data = data[length:]
        return ids

    def decode(self, ids):
        return b"".join(self.tokens[i] for i in ids).decode("utf-8", "replace")


class Characters:
    """One id a character, as character-level models have it."""

    eos_token_id = None

    def __init__(self) -> None:
        self.letters = sorted({*"".join(TEXTS), *"abcdefghij "})
        self.vocab_size = len(self.letters)

    def encode(self, text):
        return [self.letters.index(letter) for letter in text]

    def decode(self, ids):
        return "".join(self.letters[i] for i in ids)


@pytest.fixture(scope="module")
def tokenizers_by_family(families):
    return {
        "byte-level BPE": families["llama3"],
        "BPE with byte fallback": families["llama2"],
        "sentencepiece": families["sentencepiece"],
        "unigram": families["unigram"],
        "WordPiece": families["word_pieces"],
        "BPE with word ends": families["word_ends"],
        "ranks of bytes": load_tokenizer(ByteRanks()),
        "characters": load_tokenizer(Characters()),
    }


FAMILIES = {
    "byte-level BPE": "open bytes",
    "BPE with byte fallback": "fallback",
    "sentencepiece": "fallback",
    "unigram": "exact",
    "WordPiece": "exact",
    "BPE with word ends": "exact",
    "ranks of bytes": "held back",
    "characters": "held back",
}
"""What the oracle has to know of the end of a text; see `whole_text`."""


# ----------------------------------------------------------------------------- the cases


@attrs.frozen
class Case:
    """Ids behind a prompt, and where to stop."""

    prompt: tuple[int, ...]
    ids: tuple[int, ...]
    skip: bool
    stops: tuple[str, ...]
    min_tokens: int
    keep: bool


def case_of(seed: str, tokenizer) -> Case:
    """Return the case of a seed: ids of text, of random bytes, and any others."""
    numbers = random.Random(seed)
    size = min(tokenizer.vocab_size, 12_000)
    specials = sorted(tokenizer.special_token_ids) or [0]

    def text_ids():
        text = numbers.choice(TEXTS)
        start = numbers.randrange(len(text))
        part = text[start : start + numbers.randint(1, 9)]
        return tokenizer.encode(part, add_special_tokens=False)

    def any_ids():
        return [numbers.randrange(size) for _ in range(numbers.randint(1, 6))]

    def low_ids():  # where the single bytes are
        return [numbers.randrange(min(size, 262)) for _ in range(numbers.randint(1, 6))]

    def special_ids():
        return [numbers.choice(specials)]

    kinds = (text_ids, text_ids, any_ids, low_ids, special_ids)
    prompt = tokenizer.encode(numbers.choice(TEXTS), add_special_tokens=True)
    ids = [i for _ in range(numbers.randint(0, 5)) for i in numbers.choice(kinds)()]
    letters = "".join(TEXTS[numbers.randrange(len(TEXTS))][:4]) + " ae" + FFFD
    stops = {
        "".join(numbers.choice(letters) for _ in range(numbers.randint(1, 3)))
        for _ in range(numbers.choice((0, 0, 1, 2, 4)))
    }
    return Case(
        prompt=tuple(prompt[-numbers.randint(1, 12) :]),
        ids=tuple(ids),
        skip=numbers.random() < 0.7,
        stops=tuple(sorted(stops)),
        min_tokens=numbers.choice((0, 0, 0, 2, 5)),
        keep=numbers.random() < 0.5,
    )


# ---------------------------------------------------------------------------- the oracle


def whole_text(kind: str, tokenizer, ids, skip: bool) -> str:
    """Return the text of all ids that is final, whatever comes after them."""
    if kind == "fallback":
        return fallback_text(tokenizer, ids, skip)
    text = tokenizer.decode(ids, skip_special_tokens=skip)
    if kind == "exact":
        return text
    kept = text.rstrip(FFFD)
    if kind == "held back":  # nobody can see whether these may become something
        return kept + FFFD * max(0, len(text) - len(kept) - 3)
    # U+FFFD for the open bytes at the end is one, and goes; others are final.
    return text[:-1] if is_open(tokenizer, ids, skip) else text


def is_open(tokenizer, ids, skip: bool) -> bool:
    """Whether the last bytes are the beginning of a character."""
    shown = [i for i in ids if not (skip and i in tokenizer.special_token_ids)]
    tail = b""
    for i in shown[-4:]:
        token = tokenizer.id_to_token(i)
        plain = all(letter in BYTE_OF for letter in token)
        tail += bytes(BYTE_OF[x] for x in token) if plain else token.encode()
    return closed(tail) != tail


def byte_of_letters() -> dict[str, int]:
    """Return the byte that each letter of a byte-level vocabulary stands for."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    letters = {chr(byte): byte for byte in plain}
    return letters | {chr(0x100 + place): byte for place, byte in enumerate(others)}


BYTE_OF = byte_of_letters()


def fallback_text(tokenizer, ids, skip: bool) -> str:
    """Return what the pieces say: bytes that are no character are U+FFFD, each."""
    text, run = "", b""
    for i in ids:
        if skip and i in tokenizer.special_token_ids:
            continue
        token = tokenizer.id_to_token(i)
        if byte := re.fullmatch("<0x(..)>", token):
            run += bytes.fromhex(byte[1])
            continue
        unknown = token == "<unk>" and not hasattr(tokenizer.wrapped, "eos_token")
        text += each_byte(run) + (" ⁇ " if unknown else token.replace("▁", " "))
        run = b""
    return text + each_byte(closed(run))


def each_byte(run: bytes) -> str:
    return re.sub("[\udc80-\udcff]", FFFD, run.decode("utf-8", "surrogateescape"))


def closed(run: bytes) -> bytes:
    """Return *run* without the beginning of a character at its end."""
    for length in (1, 2, 3):
        if run[-length:] in BEGINNINGS:
            return run[:-length]
    return run


def beginnings() -> set[bytes]:
    """Return all bytes that some more would make a character: of every character."""
    surrogates = range(0xD800, 0xE000)
    codes = (code for code in range(0x80, 0x110000) if code not in surrogates)
    encoded = [chr(code).encode() for code in codes]
    return {data[:length] for data in encoded for length in range(1, len(data))}


BEGINNINGS = beginnings()


def expected(kind: str, tokenizer, case: Case) -> tuple[str, str | None, int]:
    """Return the text, the stop string, and after how many ids; all decoded anew."""
    start = len(whole_text(kind, tokenizer, case.prompt, case.skip))
    old = ""
    for count in range(1, len(case.ids) + 1):
        ids = [*case.prompt, *case.ids[:count]]
        text = whole_text(kind, tokenizer, ids, case.skip)[start:]
        found = min(
            (
                (place + len(stop), rank, place, stop)
                for rank, stop in enumerate(case.stops)
                for place in range(len(text))
                if text.startswith(stop, place) and place + len(stop) > len(old)
            ),
            default=None,
        )
        if found is not None and count > case.min_tokens:
            end, _, place, stop = found
            return text[: end if case.keep else place], stop, count
        old = text
    return old, None, len(case.ids)


def pushed(tokenizer, case: Case) -> tuple[str, str | None, int]:
    """Return the same from the detokenizer, an id at a time."""
    params = SamplingParams(
        stop=case.stops,
        min_tokens=case.min_tokens,
        max_tokens=None,
        skip_special_tokens=case.skip,
        include_stop_str_in_output=case.keep,
    )
    detokenizer = Detokenizer(tokenizer, prompt_token_ids=case.prompt, params=params)
    text = ""
    for count, token_id in enumerate(case.ids, 1):
        text += detokenizer.push(token_id)
        if detokenizer.matched_stop is not None:
            return text, detokenizer.matched_stop, count
    return text + detokenizer.finish(), None, len(case.ids)


@pytest.mark.parametrize("family", FAMILIES)
def test_text_and_stops_are_those_of_the_whole_decode(tokenizers_by_family, family):
    tokenizer, kind = tokenizers_by_family[family], FAMILIES[family]

    for number in range(CASES // len(FAMILIES)):
        seed = f"{family} {number}"
        case = case_of(seed, tokenizer)

        assert (seed, expected(kind, tokenizer, case)) == (
            seed,
            pushed(tokenizer, case),
        )
