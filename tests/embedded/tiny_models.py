# SPDX-License-Identifier: Apache-2.0

"""Tiny random models of the families that are served, and what `generate` says of them."""

from __future__ import annotations

import random
from pathlib import Path

import attrs
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from unillm import SamplingParams
from unillm.engines.base import EngineRequest
from unillm.scheduling.slots import SlotEngine, SlotScheduler

VOCAB = 256
POSITIONS = 256

_ROTARY = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": POSITIONS,
    "initializer_range": 0.2,  # large enough that outputs vary
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_ABSOLUTE = {
    "vocab_size": VOCAB,
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": POSITIONS,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
CONFIGS = {
    "llama": _ROTARY,
    "qwen2": _ROTARY | {"tie_word_embeddings": True},
    "qwen3": _ROTARY | {"head_dim": 32},
    "gpt2": _ABSOLUTE,
}
FAMILIES = tuple(CONFIGS)


def make_model(family: str):
    """A random model, the same at each call."""
    config = CONFIG_MAPPING[family](**CONFIGS[family])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model.eval()


@attrs.frozen
class Known:
    """A request, and the tokens that `generate` gives to its prompt alone."""

    request: EngineRequest
    tokens: tuple[int, ...]


def greedy_request(number: int, prompt, max_new_tokens: int) -> EngineRequest:
    return EngineRequest(
        request_id=f"r{number}",
        prompt_token_ids=tuple(prompt),
        params=SamplingParams(temperature=0, max_tokens=None),
        stop_token_ids=frozenset(),
        max_new_tokens=max_new_tokens,
        seed=number,
        arrival=number,
    )


def generate_alone(model, request: EngineRequest) -> tuple[int, ...]:
    ids = torch.tensor([request.prompt_token_ids])
    count = request.max_new_tokens
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=count,
        min_new_tokens=count,
        eos_token_id=None,
        pad_token_id=0,
    )
    return tuple(output[0, ids.shape[1] :].tolist())


class Reference:
    """The models as transformers runs them, and known requests; each made once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._models = {}
        self._known = {}

    def model(self, family: str):
        if family not in self._models:
            self._models[family] = make_model(family)
        return self._models[family]

    def path(self, family: str):
        path = self._root / family
        if not path.exists():
            self.model(family).save_pretrained(path)
        return path

    def known(self, family: str, count: int) -> list[Known]:
        known = self._known.setdefault(family, [])
        rng = random.Random(f"{family}{len(known)}")
        while len(known) < count:
            prompt = [rng.randrange(VOCAB) for _ in range(_random_length(rng))]
            request = greedy_request(len(known), prompt, rng.randint(1, 16))
            known.append(Known(request, generate_alone(self.model(family), request)))
        return known[:count]

    def full_length(self, family: str, prompt: tuple[int, ...]) -> Known:
        """A request that ends with the model's last position."""
        request = greedy_request(10_000, prompt, POSITIONS - len(prompt))
        return Known(request, generate_alone(self.model(family), request))


def _random_length(rng: random.Random) -> int:
    """Short ones are common, some are long, and block ends are met."""
    return rng.choice([rng.randint(1, 30), rng.randint(1, 200), 63, 64, 65])


def serve(
    engine: SlotEngine,
    requests: list[EngineRequest],
    *,
    seed: int = 0,
    max_num_batched_tokens: int = 2048,
) -> dict[str, tuple[int, ...]]:
    """Run all to their end, arriving at random between the steps."""
    scheduler = SlotScheduler(engine, max_num_batched_tokens=max_num_batched_tokens)
    rng = random.Random(seed)
    waiting = list(reversed(requests))
    tokens: dict[str, list[int]] = {each.request_id: [] for each in requests}
    while waiting or scheduler.has_unfinished():
        for _ in range(min(len(waiting), rng.choice([0, 0, 1, 1, 2, 9]))):
            scheduler.add_request(waiting.pop())
        for output in scheduler.step():
            assert output.error is None, output.error
            tokens[output.request_id] += output.token_ids
        scheduler.check()
    return {request_id: tuple(ids) for request_id, ids in tokens.items()}
