# SPDX-License-Identifier: Apache-2.0

"""Families that are served are converted correctly; others are refused."""

from __future__ import annotations

import random

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from unillm_ctranslate2 import _families

from unillm import SamplingParams
from unillm.backend import EngineRequest, RunScheduler
from unillm.errors import UnsupportedModelError

_ROTARY = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
}
_ALL_HEADS = {key: _ROTARY[key] for key in _ROTARY if key != "num_key_value_heads"}
_ABSOLUTE = {
    "vocab_size": 256,
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 256,
    "initializer_range": 0.2,
}
_WINDOWS = {
    "sliding_window": 24,
    "layer_types": ["sliding_attention", "full_attention"],
}
_FAR = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
_LINEAR = {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}}
_LLAMA3 = {
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 5e5,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
}
_GEMMA3 = _ROTARY | {"head_dim": 16, "query_pre_attn_scalar": 16}

SERVED = {
    "bloom": _ABSOLUTE | {"hidden_size": 64},
    "codegen": _ABSOLUTE | {"rotary_dim": 8},
    "falcon": _ALL_HEADS | {"alibi": False, "multi_query": True},
    "gemma": _ROTARY | {"head_dim": 16},
    "gemma, far": _ROTARY | _FAR | {"head_dim": 16},
    "gemma3_text": _GEMMA3 | _WINDOWS | {"sliding_window": 256},
    "gpt2": _ABSOLUTE,
    "gpt_bigcode": _ABSOLUTE,
    "gptj": _ABSOLUTE | {"rotary_dim": 8},
    "llama": _ROTARY,
    "llama, linear": _ROTARY | _LINEAR,
    "mistral": _ROTARY | {"sliding_window": None},
    "opt": _ALL_HEADS | {"word_embed_proj_dim": 64, "ffn_dim": 128, "init_std": 0.2},
    "qwen2": _ROTARY | _FAR,
    "qwen3": _ROTARY | {"head_dim": 32},
}
REFUSED = {
    "bloom": (
        _ABSOLUTE
        | {"hidden_size": 64, "apply_residual_connection_post_layernorm": True},
        "apply_residual_connection_post_layernorm is True",
    ),
    "falcon": (_ALL_HEADS | _FAR | {"alibi": False}, "rope_theta is 1000000.0"),
    "gemma": (_ROTARY | _LINEAR | {"head_dim": 16}, "rope_type is 'linear'"),
    "gemma2": (_ROTARY | {"head_dim": 16}, "ignores its soft-capping"),
    "gemma3_text": (_GEMMA3 | _WINDOWS, "a window of 24 tokens.*max_model_len=24"),
    "llama": (_ROTARY | _LLAMA3, "rope_type is 'llama3'"),
    "mistral": (_ROTARY | {"sliding_window": 24}, "a window of 24 tokens"),
    "olmo2": (
        _ROTARY,
        "the family 'olmo2' is not among those",
    ),
    "qwen2": (_ROTARY | {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
}


@pytest.fixture
def save(tmp_path):
    def save(family, config):
        config = CONFIG_MAPPING[family](**config)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        model.eval().save_pretrained(tmp_path / "model")
        return model, tmp_path / "model"

    return save


def generate_alone(model, prompt, count):
    ids = torch.tensor([prompt])
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=count,
        min_new_tokens=count,
        eos_token_id=None,
        pad_token_id=0,
    )
    return output[0, len(prompt) :].tolist()


@pytest.mark.parametrize("variant", SERVED)
def test_tokens_equal_those_of_transformers(variant, save, load):
    model, path = save(variant.partition(",")[0], SERVED[variant])
    numbers = random.Random(variant)
    prompts = [
        [numbers.randrange(256) for _ in range(numbers.choice([3, 20, 90, 120]))]
        for _ in range(8)
    ]

    scheduler = RunScheduler(load(path, dtype="float32"), clock=lambda: 0.0)
    for number, prompt in enumerate(prompts):
        scheduler.add_request(
            EngineRequest(
                request_id=str(number),
                prompt_token_ids=tuple(prompt),
                params=SamplingParams(temperature=0, max_tokens=None),
                stop_token_ids=frozenset(),
                max_new_tokens=12,
                seed=0,
                arrival=number,
            )
        )
    tokens = {str(number): [] for number in range(8)}
    while scheduler.has_unfinished():
        for output in scheduler.step():
            tokens[output.request_id] += output.token_ids

    for number, prompt in enumerate(prompts):
        assert tokens[str(number)] == generate_alone(model, prompt, 12)


@pytest.mark.parametrize("family", REFUSED)
def test_a_model_that_is_not_converted_correctly_is_refused(family, save, load):
    config, reason = REFUSED[family]
    _, path = save(family, config)

    with pytest.raises(UnsupportedModelError, match=reason):
        load(path, dtype="float32")


def test_a_window_that_no_request_fills_is_served(save, load):
    _, path = save("mistral", _ROTARY | {"sliding_window": 64})

    assert load(path, dtype="float32", max_model_len=64).limits.max_model_len == 64


def test_a_wrong_conversion_is_found_by_its_logits(save, load, monkeypatch):
    _, path = save("llama", _ROTARY | _LLAMA3)
    monkeypatch.setattr(_families, "FAMILIES", {"llama": {}})

    with pytest.raises(UnsupportedModelError, match="not correctly: the logits"):
        load(path, dtype="float32")


def test_a_model_is_converted_once(save, load, cache):
    _, path = save("llama", _ROTARY)
    load(path, dtype="float32")
    before = set(cache.rglob("model.bin"))

    load(path, dtype="float32", max_num_seqs=2)

    assert set(cache.rglob("model.bin")) == before
