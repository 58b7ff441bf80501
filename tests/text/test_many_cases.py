# SPDX-License-Identifier: Apache-2.0

"""A hundred thousand random sequences of ids, each against the decode of the whole.

The properties of `test_detokenizer` look for the smallest case that fails; these look
at many, of every family. A failure names the seed from which `case_of` makes its case.
"""

from __future__ import annotations

import random

import attrs
import pytest
from text.oracle import FFFD, added_text, stop_of

from unillm import SamplingParams
from unillm.text.detokenizer import Detokenizer
from unillm.text.loading import load_tokenizer

CASES = 100_000
"""Over all families together."""

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
"""Kinds of the families, as in `oracle.KINDS`."""


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


def expected(kind, tokenizer, case: Case) -> tuple[int, str | None, str]:
    """Return the number of ids, the stop string and the text, all decoded anew."""
    texts = [
        added_text(kind, tokenizer, case.prompt, case.ids[:count], skip=case.skip)
        for count in range(len(case.ids) + 1)
    ]
    return stop_of(texts, case.stops, case.min_tokens, case.keep)


def pushed(tokenizer, case: Case) -> tuple[int, str | None, str]:
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
            return count, detokenizer.matched_stop, text
    return len(case.ids), None, text + detokenizer.finish()


@pytest.mark.parametrize("family", FAMILIES)
def test_text_and_stops_are_those_of_the_whole_decode(tokenizers_by_family, family):
    tokenizer, kind = tokenizers_by_family[family], FAMILIES[family]

    for number in range(CASES // len(FAMILIES)):
        seed = f"{family} {number}"
        case = case_of(seed, tokenizer)

        assert pushed(tokenizer, case) == expected(kind, tokenizer, case), seed
