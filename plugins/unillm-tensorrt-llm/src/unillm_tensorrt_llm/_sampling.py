# SPDX-License-Identifier: Apache-2.0

"""Sampling fields of a request as arguments of TensorRT-LLM, all of them explicit.

TensorRT-LLM's own defaults differ: greedy if nothing is set, 32 tokens, seed 0 in every
run, and a top-k that refuses -1.

References:
    ``tensorrt_llm/sampling_params.py``, and ``SamplingConfig`` of
    ``tensorrt_llm/runtime/generation.py``.
"""

from __future__ import annotations

import inspect
from typing import Any

from unillm.backend import EngineRequest, SamplingParams

from ._names import BEFORE_0_13

BANNED = -1e9
"""A bias that no logit outweighs, and finite: infinity times a penalty may be NaN."""

NO_END = -1
"""The ``end_id`` that the LLM API itself sends under ``ignore_eos``."""


def end_ids(request: EngineRequest) -> tuple[int, list[int]]:
    """Return ``end_id``, and the other ids that end a request."""
    first, *others = sorted(request.stop_token_ids) or [NO_END]
    return first, others


def seed(request: EngineRequest) -> int:
    """Return the seed as an unsigned number, as the C++ runtime takes it."""
    return request.seed % 2**63


def choice(request: EngineRequest) -> dict[str, Any]:
    """Return the arguments that choose a token.

    ``top_k=1`` is greedy at every entry path and in every version.
    """
    params = request.params
    if params.greedy:
        return {"top_k": 1}
    chosen: dict[str, Any] = {
        "temperature": params.temperature,
        "top_k": max(params.top_k, 0),
        "top_p": params.top_p,
    }
    if params.min_p:
        chosen["min_p"] = params.min_p
    return chosen


def penalties(request: EngineRequest) -> dict[str, float]:
    """Return the penalties that are not neutral."""
    params = request.params
    neutral = {
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "repetition_penalty": 1.0,
    }
    return {
        name: getattr(params, name)
        for name, value in neutral.items()
        if getattr(params, name) != value
    }


def llm_params(request: EngineRequest, params_class: Any, *, vocab_size: int) -> Any:
    """Make the ``SamplingParams`` of a request for the LLM API.

    A new object each time, because TensorRT-LLM changes its arguments. Stop strings are
    left out: together with an explicit ``end_id`` it would refuse them.
    """
    end_id, others = end_ids(request)
    has_end = end_id != NO_END
    given = {
        "end_id": end_id if has_end else 0,
        "pad_id": end_id if has_end else 0,
        # ignore_eos also drops stop words (2026); there are none then.
        "ignore_eos": not has_end,
        "stop_token_ids": others or None,
        "max_tokens": request.max_new_tokens,
        "seed": seed(request),
        "detokenize": False,
        "include_stop_str_in_output": True,  # or the last id is cut off
        **choice(request),
        **penalties(request),
    }
    bias = _bias(request.params, vocab_size)
    if bias is not None:
        given["embedding_bias"] = bias
    known = inspect.signature(params_class).parameters
    return params_class(
        **{
            name if name in known else BEFORE_0_13.get(name, name): value
            for name, value in given.items()
        }
    )


def _bias(params: SamplingParams, vocab_size: int) -> Any:
    """Return the bias on the logits; `None` without one.

    It also serves `allowed_token_ids`, which TensorRT-LLM does not have.
    """
    if not params.logit_bias and params.allowed_token_ids is None:
        return None
    import torch

    bias = torch.zeros(vocab_size, dtype=torch.float32)
    for token_id, value in params.logit_bias.items():
        bias[token_id] = value
    if params.allowed_token_ids is not None:
        banned = torch.ones(vocab_size, dtype=torch.bool)
        banned[list(params.allowed_token_ids)] = False
        bias[banned] = BANNED
    return bias
