# SPDX-License-Identifier: Apache-2.0

"""Small tokenizers of every family, trained in a moment and offline."""

from __future__ import annotations

import io
import json

import pytest
import sentencepiece
import tokenizers
from tokenizers import (
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from unillm.text.loading import load_tokenizer

CORPUS = [
    "the quick brown fox jumps over the lazy dog",
    "hello world, hello again; it is a warm day in the old town",
    "日本語のテキストと絵文字 🎉🎊 été naïve Zürich",
    "def f(x):\n    return x + 1\n\n\nUser: stop now\n",
] * 8

LLAMA3_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' "
    "+ message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)


def byte_level(specials):
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    return backend


@pytest.fixture(scope="session")
def gpt2():
    """Byte-level BPE with a special token and added ones that are not special."""
    backend = byte_level(["<|endoftext|>"])
    backend.add_tokens(["tool call", "é!"])
    return backend


@pytest.fixture(scope="session")
def llama3_dir(tmp_path_factory):
    """A Hugging Face directory of Llama 3.1's shape: three EOS tokens, a template."""
    path = tmp_path_factory.mktemp("llama3")
    names = ["begin_of_text", "end_of_text", "start_header_id", "end_header_id"]
    specials = [f"<|{name}|>" for name in [*names, "eom_id", "eot_id"]]
    backend = byte_level(specials)
    backend.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A",
        special_tokens=[("<|begin_of_text|>", 0)],
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|begin_of_text|>",
        eos_token="<|end_of_text|>",
        chat_template=LLAMA3_TEMPLATE,
        extra_special_tokens=specials[2:],
    )
    tokenizer.save_pretrained(path)
    (path / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [1, 4, 5]})
    )
    (path / "config.json").write_text(
        json.dumps(
            {"model_type": "llama", "eos_token_id": [1, 4, 5], "vocab_size": 400}
        )
    )
    return path


@pytest.fixture(scope="session")
def sentencepiece_dir(tmp_path_factory):
    """A directory with a sentencepiece model and nothing else."""
    path = tmp_path_factory.mktemp("sentencepiece")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=model,
        model_type="bpe",
        vocab_size=420,
        byte_fallback=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        minloglevel=2,
        normalization_rule_name="identity",
    )
    (path / "tokenizer.model").write_bytes(model.getvalue())
    return path


@pytest.fixture(scope="session")
def processor(sentencepiece_dir):
    return sentencepiece.SentencePieceProcessor(
        model_file=str(sentencepiece_dir / "tokenizer.model")
    )


@pytest.fixture(scope="session")
def llama2(processor):
    """The same pieces as Hugging Face's Llama 2 has them: byte fallback in Rust."""
    vocabulary = {processor.id_to_piece(i): i for i in range(processor.vocab_size())}
    backend = tokenizers.Tokenizer(
        models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, unk_token="<unk>")
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
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@pytest.fixture(scope="session")
def word_pieces():
    """WordPiece, as BERT has it."""
    backend = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    backend.train_from_iterator(
        CORPUS,
        trainers.WordPieceTrainer(
            vocab_size=250,
            special_tokens=["[UNK]", "[SEP]"],
            show_progress=False,
        ),
    )
    return backend


@pytest.fixture(scope="session")
def unigram():
    """Unigram with metaspace, without byte fallback."""
    backend = tokenizers.Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.train_from_iterator(
        CORPUS,
        trainers.UnigramTrainer(
            vocab_size=150,
            special_tokens=["<unk>", "</s>"],
            unk_token="<unk>",
            show_progress=False,
        ),
    )
    return backend


@pytest.fixture(scope="session")
def word_ends():
    """BPE that marks the ends of words, as GPT-1 has it: a token's space depends on
    whether another one follows."""
    backend = tokenizers.Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.BPEDecoder(suffix="</w>")
    backend.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=300, end_of_word_suffix="</w>", show_progress=False
        ),
    )
    return backend


class Letters:
    """A caller's object: one id a letter."""

    eos_token_id = 0
    vocab_size = 0x3000

    def encode(self, text):
        return [ord(letter) for letter in text]

    def decode(self, ids):
        return "".join(chr(i) for i in ids if i)


class Bytes:
    """A caller's object: one id a byte, so that most texts are no UTF-8."""

    eos_token_id = None
    vocab_size = 256

    def encode(self, text, add_special_tokens=True):
        return list(text.encode())

    def decode(self, ids, skip_special_tokens=False):
        return bytes(ids).decode("utf-8", "replace")


@pytest.fixture(scope="session")
def families(request):
    """Every family as a `Tokenizer`, by name."""
    objects = {
        name: request.getfixturevalue(name)
        for name in ("gpt2", "llama2", "word_pieces", "unigram", "word_ends")
    }
    sources = {
        **objects,
        "llama3": request.getfixturevalue("llama3_dir"),
        "sentencepiece": request.getfixturevalue("sentencepiece_dir"),
        "letters": Letters(),
        "bytes": Bytes(),
    }
    return {name: load_tokenizer(source) for name, source in sources.items()}
