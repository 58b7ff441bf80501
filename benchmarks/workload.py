# SPDX-License-Identifier: Apache-2.0

"""Random Llamas and requests for the benchmark of the slots."""

from __future__ import annotations

import math
import random
import shutil
from pathlib import Path
from typing import Any

import attrs

MODELS: dict[str, dict[str, int]] = {
    "0.65M": {
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    "10M": {
        "hidden_size": 384,
        "intermediate_size": 1088,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
    },
    "50M": {
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 8,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
    },
}
"""Llamas by number of parameters; input and output share one embedding."""

VOCAB = 512
"""Size of the bundled model's vocabulary."""

MAX_MODEL_LEN = 704
"""Fits the longest prompt and the longest output."""


@attrs.frozen
class Workload:
    """Prompts, and the number of new tokens of each."""

    prompts: list[list[int]]
    lengths: list[int]

    @property
    def tokens(self) -> int:
        """New tokens of all requests."""
        return sum(self.lengths)

    def first(self, count: int, *, longest: int) -> Workload:
        """Return the first requests, with at most *longest* new tokens each."""
        lengths = [min(length, longest) for length in self.lengths[:count]]
        return Workload(self.prompts[:count], lengths)


def draw(count: int, *, equal: bool, seed: int = 0) -> Workload:
    """Draw prompts and output lengths, lognormal, or 100 for all outputs.

    Prompts have a median of 40 tokens and at most 256; outputs have a mean of 100
    (before the cut) and at most 448.
    """
    rng = random.Random(seed)
    sigma = 0.9
    prompts, lengths = [], []
    for _ in range(count):
        prompt = min(256, max(4, int(rng.lognormvariate(math.log(40), 0.8))))
        length = int(rng.lognormvariate(math.log(100) - sigma**2 / 2, sigma))
        prompts.append([rng.randrange(3, VOCAB) for _ in range(prompt)])
        lengths.append(100 if equal else min(448, max(4, length)))
    return Workload(prompts, lengths)


def make_model(name: str, folder: Path) -> Path:
    """Save a random model in fp32, with the tokenizer of the bundled model."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from unillm.model.find import find_model

    path = folder / name
    options: dict[str, Any] = {
        "vocab_size": VOCAB,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": True,
        "initializer_range": 0.05,
    }
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**MODELS[name], **options)).float()
    model.save_pretrained(path)
    for file in find_model("unillm/tiny").glob("tokenizer*"):
        shutil.copy(file, path)
    return path
