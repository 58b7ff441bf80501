# SPDX-License-Identifier: Apache-2.0

"""The estimated activations of a step, against those that torch's profiler sees."""

from __future__ import annotations

import random

import attrs
import pytest
import torch
from embedded.serving import greedy_request
from torch.profiler import ProfilerActivity, profile
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from unillm import SamplingParams
from unillm.embedded.engine import TransformersSlotEngine
from unillm.embedded.families import FAMILIES
from unillm.model.memory import Limits, needs_of
from unillm.model.sizes import STEPWISE_ATTENTION
from unillm.scheduling.slots import SlotScheduler

TOLERANCE = 0.25
"""Largest distance of the estimate from the measurement, as a share of the latter."""

TOKENS = 512
LENGTH = 2048

_MODEL = {
    "vocab_size": 1000,
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": LENGTH,
}
_ABSOLUTE = {
    "vocab_size": 1000,
    "n_embd": 256,
    "n_layer": 2,
    "n_head": 8,
    "n_positions": LENGTH,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_SSM = {
    "mamba_n_heads": 8,
    "mamba_d_head": 64,
    "mamba_n_groups": 1,
    "mamba_d_state": 64,
    "mamba_chunk_size": 64,
}
_DELTA_RULE = {
    "head_dim": 64,
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_value_heads": 8,
    "linear_num_key_heads": 4,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
}
MODELS = {
    "llama": _MODEL,
    "llama, narrow": _MODEL | {"intermediate_size": 256},
    "gpt2": _ABSOLUTE,
    "bloom": _ABSOLUTE | {"hidden_size": 256, "seq_length": LENGTH},
    "mistral, window": _MODEL | {"sliding_window": 128},
    "gemma2": _MODEL | {"head_dim": 32, "sliding_window": 128},
    "mixtral": _MODEL | {"num_local_experts": 8, "num_experts_per_tok": 2},
    "mamba": {
        "vocab_size": 1000,
        "hidden_size": 256,
        "num_hidden_layers": 2,
        "state_size": 16,
    },
    "bamba": _MODEL | _SSM | {"attn_layer_indices": [1]},
    "lfm2": _MODEL
    | {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    "qwen3_5_text": _MODEL | _DELTA_RULE,
}


def make_engine(variant: str, *, num_slots: int = 4, **changes):
    config = CONFIG_MAPPING[variant.partition(",")[0]](**(MODELS[variant] | changes))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return TransformersSlotEngine(
        model, num_slots=num_slots, max_model_len=LENGTH, enforce_eager=True
    )


def peak_bytes(work) -> int:
    """Return the most bytes that were allocated at once while *work* ran."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    found = []

    def collect(events) -> None:
        for event in events:
            fields = event.extra_fields
            if type(fields).__name__ == "_ExtraFields_Allocation":
                found.append(
                    (event.start_time_ns, fields.alloc_size, fields.total_allocated)
                )
            collect(event.children)

    collect(profiler.profiler.kineto_results.experimental_event_tree())
    found.sort()
    _, first_size, first_total = found[0]
    return max(total for *_, total in found) - (first_total - first_size)


def prefill_peak(variant: str, prompt_length: int) -> int:
    """Return the peak of the last chunk of a prompt, or of the only one."""
    engine = make_engine(variant)
    scheduler = SlotScheduler(engine, max_num_batched_tokens=TOKENS)
    rng = random.Random(0)

    def request(number: int, length: int):
        return greedy_request(number, [rng.randrange(100) for _ in range(length)], 2)

    scheduler.add_request(request(0, 16))  # the engine allocates some tensors once
    while scheduler.has_unfinished():
        scheduler.step()
    scheduler.add_request(request(1, prompt_length))
    peak = 0
    while scheduler.has_unfinished():
        peak = max(peak, peak_bytes(scheduler.step))
    return peak


def estimated(variant: str, tokens: int, length: int) -> int:
    config = CONFIG_MAPPING[variant.partition(",")[0]](**MODELS[variant])
    needs = needs_of(config, weight_bytes=0, item_bytes=4)
    limits = Limits(max_num_seqs=1, max_model_len=length, max_num_batched_tokens=tokens)
    return needs.estimate(limits).activation_bytes


@pytest.mark.parametrize("variant", MODELS)
def test_a_prefill_takes_the_estimated_memory(variant):
    measured = prefill_peak(variant, TOKENS)

    # A whole prompt needs masks and scores of its own positions alone, if at all.
    expected = estimated(variant, TOKENS, TOKENS)
    assert measured == pytest.approx(expected, rel=TOLERANCE), measured / expected


@pytest.mark.parametrize("variant", ["llama", "gpt2", "bloom", "gemma2", "mixtral"])
def test_the_last_chunk_of_a_long_prompt_takes_the_estimated_memory(variant):
    measured = prefill_peak(variant, LENGTH - 2)

    expected = estimated(variant, TOKENS, LENGTH)
    assert measured == pytest.approx(expected, rel=TOLERANCE), measured / expected


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0.7, "top_p": 0.9},
        {"temperature": 0.7, "top_p": 0.9, "top_k": 50, "min_p": 0.1, "logprobs": 5},
    ],
    ids=["top-p", "everything"],
)
def test_sampling_takes_the_estimated_memory(fields):
    engine = make_engine("llama", num_slots=16, vocab_size=50_000)
    scheduler = SlotScheduler(engine)
    for number in range(16):
        params = SamplingParams(max_tokens=None, **fields)
        request = attrs.evolve(greedy_request(number, [1, 2, 3], 9), params=params)
        scheduler.add_request(request)
    scheduler.step()

    measured = peak_bytes(scheduler.step)

    needs = needs_of(engine._model.config, weight_bytes=0, item_bytes=4)
    expected = 16 * needs.logit_bytes_per_seq
    assert measured == pytest.approx(expected, rel=TOLERANCE), measured / expected


def test_families_with_their_own_attention_are_estimated_stepwise():
    own = {name for name, family in FAMILIES.items() if family.own_attention}
    assert own <= STEPWISE_ATTENTION
