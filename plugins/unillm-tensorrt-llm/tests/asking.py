# SPDX-License-Identifier: Apache-2.0

"""Requests to the fake itself, as a user of TensorRT-LLM makes them."""

from __future__ import annotations

import importlib

import torch

PROMPT = list(range(40, 60))
SHORT = [40]
"""After a single token the next one is uncertain."""
ENGINES = ("0.12", "0.13", "0.14", "0.15", "0.16", "0.17", "0.18", "0.21", "1.2")
PYTORCH = ("1.0", "1.1rc0", "1.1", "1.2", "1.3rc20", "1.3rc24", "1.4", "main")
IN_CPP = {
    "1.0": {"enable_trtllm_sampler": True},
    "1.1rc0": {"use_torch_sampler": False},
    "1.1": {"sampler_type": "TRTLLMSampler"},
    "1.2": {"sampler_type": "TRTLLMSampler"},
    "1.3rc20": {"sampler_type": "TRTLLMSampler"},
    "1.3rc24": {"sampler_type": "TRTLLMSampler"},
}
"""The options that choose the C++ sampler (§4.1)."""
IN_TORCH = {"1.1rc0": {"use_torch_sampler": True}}
"""And those that choose the other one, where that is not the default."""
DRAW = {"temperature": 2.0, "top_p": 1.0, "max_tokens": 16}
ALL_CPP = (*ENGINES[:-1], *IN_CPP)


def params(**fields):
    """Make the parameters of a request without an EOS token, of eight tokens."""
    made = importlib.import_module("tensorrt_llm").SamplingParams
    old = "max_tokens" not in made.__dataclass_fields__
    names = {"max_tokens": "max_new_tokens", "seed": "random_seed"} if old else {}
    given = {"end_id": -1, "max_tokens": 8} | fields
    return made(**{names.get(name, name): value for name, value in given.items()})


def ids(llm, prompt=PROMPT, **fields):
    return list(ask(llm, prompt, **fields).outputs[0].token_ids)


def ask(llm, prompt=PROMPT, **fields):
    return llm.generate_async(list(prompt), params(**fields)).result()


def free_run(llm):
    """Return greedy ids, and the place of one that did not come before."""
    free = ids(llm)
    at = next(i for i in range(1, 8) if free[i] not in free[:i])
    return free, at


def towards(token_id):
    bias = torch.zeros(512)
    bias[token_id] = 1e4
    return bias
