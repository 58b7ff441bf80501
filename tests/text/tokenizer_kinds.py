# SPDX-License-Identifier: Apache-2.0

"""Tokenizers of all kinds that put spaces in different places, by name.

Small ones are trained here. The real ones are files of the package ``mistral-common``,
where it is installed; only its files are read.
"""

from __future__ import annotations

import base64
import io
import json
from importlib.util import find_spec
from pathlib import Path

import sentencepiece
import tokenizers
from text.oracle import byte_of_letters
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers

CORPUS = [
    "the quick brown fox says yes, and the lazy dog says no; described and undescribed",
    '{"name": "the fox", "grade": 7, "right": true, "list": [1, 2.5, null, false]}',
    "0123456789 abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~",
    "日本語のテキスト été naïve Zürich",
] * 8
SPECIALS = ["<unk>", "<s>", "</s>"]
LETTERS = sorted({letter for text in CORPUS for letter in text})


def _bpe(pre_tokenizer, decoder, *, normalizer=None, alphabet=()):
    backend = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizer
    backend.decoder = decoder
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=450,
            special_tokens=SPECIALS,
            initial_alphabet=list(alphabet),
            show_progress=False,
        ),
    )
    return backend


def byte_level(*, add_prefix_space):
    return _bpe(
        pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space),
        decoders.ByteLevel(),
        alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )


def lower_byte_level():
    """A normaliser that loses letters: no text of the encoder has a capital."""
    backend = byte_level(add_prefix_space=False)
    backend.normalizer = normalizers.Lowercase()
    return backend


def tekken_like():
    """Byte-level BPE with a regular expression of its own, as in tekken."""
    split = pre_tokenizers.Split(
        Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s+"),
        behavior="isolated",
    )
    return _bpe(
        pre_tokenizers.Sequence(
            [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        ),
        decoders.ByteLevel(),
        alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )


def metaspace(scheme, *, split=True):
    return _bpe(
        pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split),
        decoders.Metaspace(prepend_scheme=scheme, split=split),
    )


def llama2():
    """Prepended space and byte fallback in Rust, as Hugging Face has Llama 2."""
    processor = sentencepiece.SentencePieceProcessor(
        model_proto=sentencepiece_model("bpe", byte_fallback=True)
    )
    pieces = [processor.id_to_piece(i) for i in range(processor.vocab_size())]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    merges = [
        (piece[:cut], piece[cut:])
        for piece in pieces
        for cut in range(1, len(piece))
        if not piece.startswith("<")
        and piece[:cut] in vocabulary
        and piece[cut:] in vocabulary
    ]
    backend = tokenizers.Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=merges,
            byte_fallback=True,
            fuse_unk=True,
            unk_token="<unk>",
        )
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    backend.add_special_tokens(SPECIALS)
    return backend


def word_piece(*, lowercase=False):
    backend = tokenizers.Tokenizer(models.WordPiece(unk_token="<unk>"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    backend.train_from_iterator(
        CORPUS,
        trainers.WordPieceTrainer(
            vocab_size=450,
            special_tokens=SPECIALS,
            initial_alphabet=LETTERS,
            show_progress=False,
        ),
    )
    # Every letter inside a word too, as in a vocabulary of a language.
    backend.add_tokens(
        [f"##{x}" for x in LETTERS if backend.token_to_id(f"##{x}") is None]
    )
    return backend


def unigram():
    backend = tokenizers.Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.train_from_iterator(
        CORPUS,
        trainers.UnigramTrainer(
            vocab_size=250,
            special_tokens=SPECIALS,
            unk_token="<unk>",
            initial_alphabet=LETTERS,
            show_progress=False,
        ),
    )
    return backend


def sentencepiece_model(kind, *, byte_fallback, add_dummy_prefix=True):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=model,
        model_type=kind,
        vocab_size=480 if byte_fallback else 220,
        byte_fallback=byte_fallback,
        add_dummy_prefix=add_dummy_prefix,
        character_coverage=1.0,
        minloglevel=2,
        normalization_rule_name="identity",
        hard_vocab_limit=False,
    )
    return model.getvalue()


def sentencepiece_of(kind, **options):
    return sentencepiece.SentencePieceProcessor(
        model_proto=sentencepiece_model(kind, **options)
    )


SMALL = {
    "byte level": lambda: byte_level(add_prefix_space=False),
    "byte level, space first": lambda: byte_level(add_prefix_space=True),
    "byte level, lower case": lower_byte_level,
    "byte level, own split": tekken_like,
    "metaspace first": lambda: metaspace("first"),
    "metaspace first, whole text": lambda: metaspace("first", split=False),
    "metaspace always": lambda: metaspace("always"),
    "metaspace never": lambda: metaspace("never"),
    "llama 2": llama2,
    "word piece": word_piece,
    "word piece, lower case": lambda: word_piece(lowercase=True),
    "unigram": unigram,
    "sentencepiece bpe": lambda: sentencepiece_of("bpe", byte_fallback=True),
    "sentencepiece unigram": lambda: sentencepiece_of("unigram", byte_fallback=False),
    "sentencepiece without a prefix": lambda: sentencepiece_of(
        "bpe", byte_fallback=True, add_dummy_prefix=False
    ),
}


def real_files() -> dict[str, Path]:
    """Return the tokenizers that ``mistral-common`` ships, without importing it."""
    spec = find_spec("mistral_common")
    if spec is None or not spec.submodule_search_locations:
        return {}
    data = Path(spec.submodule_search_locations[0]) / "data"
    return {file.name: file for file in sorted(data.iterdir()) if file.is_file()}


def real(file):
    """Return a tokenizer of a file of ``mistral-common``."""
    if file.suffix == ".json":
        return _tekken(json.loads(file.read_bytes()))
    return sentencepiece.SentencePieceProcessor(model_file=str(file))


def _tekken(description, ranks=20_000):
    """Return tekken with its first ranks, which are a byte-level BPE by themselves."""
    config = description["config"]
    first = config["default_num_special_tokens"]
    pieces = [base64.b64decode(each["token_bytes"]) for each in description["vocab"]]
    letters = [
        "".join(LETTER_OF_BYTE[byte] for byte in piece) for piece in pieces[:ranks]
    ]
    vocabulary = {f"<special {n}>": n for n in range(first)}
    vocabulary |= {text: first + rank for rank, text in enumerate(letters)}
    merges = [
        (text[:cut], text[cut:])
        for text in letters
        for cut in range(1, len(text))
        if text[:cut] in vocabulary and text[cut:] in vocabulary
    ]
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    split = pre_tokenizers.Split(Regex(config["pattern"]), behavior="isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([f"<special {n}>" for n in range(first)])
    return backend


LETTER_OF_BYTE = {byte: letter for letter, byte in byte_of_letters().items()}
