# SPDX-License-Identifier: Apache-2.0

"""A random model with a tokenizer of bytes and a few longer pieces."""

from __future__ import annotations

import json
from pathlib import Path

import tokenizers
import torch
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

EOS = 2
MERGES = [
    ("t", "h"),
    ("th", "e"),
    ("Ġ", "t"),
    ("a", "n"),
    ("an", "d"),
    ("t", "r"),
    ("tr", "ue"),
    ("u", "e"),
    ('"', ":"),
    ("{", '"'),
    ('"', "}"),
    ("1", "2"),
]


def byte_tokenizer() -> tokenizers.Tokenizer:
    """Return a byte-level BPE: three special tokens, 256 bytes and some merges."""
    special = ["<pad>", "<bos>", "<eos>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = sorted(MERGES, key=lambda m: m == ("tr", "ue"))
    names = [*special, *alphabet, *("".join(merge) for merge in merges)]
    model = models.BPE(
        vocab={name: number for number, name in enumerate(names)}, merges=merges
    )
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(s, special=True) for s in special])
    return tokenizer


def save_model(path: Path, seed: int = 0) -> Path:
    """Save a random Llama with a bare ``tokenizer.json``, which has fewer ids.

    Its weights are small, so that sampling at temperature 1 reaches every token.
    """
    tokenizer = byte_tokenizer()
    config = CONFIG_MAPPING["llama"](
        vocab_size=tokenizer.get_vocab_size() + 13,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=EOS,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(path)
    tokenizer.save(str(path / "tokenizer.json"))
    generation = {"eos_token_id": EOS}
    (path / "generation_config.json").write_text(json.dumps(generation))
    return path


class OwnTokenizer:
    """A caller's own tokenizer, which does not know the bytes of its tokens."""

    eos_token_id = EOS
    vocab_size = 260

    def encode(self, text):
        return [3 + byte for byte in text.encode()]

    def decode(self, ids):
        return " ".join(map(str, ids))
