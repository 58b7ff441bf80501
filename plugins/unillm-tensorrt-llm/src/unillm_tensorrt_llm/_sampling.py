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
from collections.abc import Mapping
from typing import Any

from unillm.backend import (
    EngineRequest,
    SamplingParams,
    StructuredOutputs,
    structure_notation,
)

from ._names import BEFORE_0_13

BANNED = -1e9
"""A bias that no logit outweighs, and finite: infinity times a penalty may be NaN."""

NO_END = -1
"""The ``end_id`` that the LLM API itself sends under ``ignore_eos``."""

_ODD = 0x9E3779B97F4A7C15
"""2**64 over the golden ratio, which spreads the bits of a seed."""


def end_ids(request: EngineRequest) -> tuple[int, list[int]]:
    """Return ``end_id``, and the other ids that end a request."""
    first, *others = sorted(request.stop_token_ids) or [NO_END]
    return first, others


def seed(request: EngineRequest) -> int:
    """Return the seed as a number of both types that TensorRT-LLM has for it.

    They are int64 and uint64. Negative seeds become positive ones, all of them others,
    and far from the small ones that people choose.
    """
    seed = request.seed
    return seed if seed >= 0 else seed * _ODD % 2**63


def choice(request: EngineRequest, *, vocab_size: int) -> dict[str, Any]:
    """Return the arguments that choose a token.

    ``top_k=1`` is greedy at every entry path and in every version.
    """
    params = request.params
    if params.greedy:
        return {"top_k": 1}
    chosen: dict[str, Any] = {
        "temperature": params.temperature,
        # All tokens are 0; the C++ decoder would cut a large number to 1024.
        "top_k": params.top_k if 0 < params.top_k < vocab_size else 0,
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


def llm_params(
    request: EngineRequest,
    params_class: Any,
    *,
    vocab_size: int,
    guided_class: Any = None,
) -> Any:
    """Make the ``SamplingParams`` of a request for the LLM API.

    A new object each time, because TensorRT-LLM changes its arguments. Stop strings are
    left out: together with an explicit ``end_id`` it would refuse them.

    Args:
        request: Of an engine whose capabilities allow its fields.
        params_class: ``SamplingParams``.
        vocab_size: Of the model, without padding.
        guided_class: ``GuidedDecodingParams``; only structured outputs need it.
    """
    known = inspect.signature(params_class).parameters
    params = request.params
    given: dict[str, Any] = {
        **_end(request, known),
        "max_tokens": request.max_new_tokens,
        "seed": seed(request),
        "include_stop_str_in_output": True,  # or the last id is cut off
        **choice(request, vocab_size=vocab_size),
        **penalties(request),
    }
    if "detokenize" in known:  # from 0.15 on
        given["detokenize"] = False
    if params.presence_penalty or params.frequency_penalty:
        given["prompt_ignore_length"] = len(request.prompt_token_ids)
    if params.min_tokens:
        given["min_tokens"] = params.min_tokens
    if banned := bad_ids(request):
        given["bad_token_ids"] = banned
    for name in ("logprobs", "prompt_logprobs"):
        if (count := getattr(params, name)) is not None:
            given[name] = logprob_count(count, vocab_size)
    if params.structured_outputs is not None:
        given["guided_decoding"] = guided_class(**guide(params.structured_outputs))
    bias = _bias(params, vocab_size)
    if bias is not None:
        given["embedding_bias"] = bias
    return params_class(
        **{
            name if name in known else BEFORE_0_13.get(name, name): value
            for name, value in given.items()
        }
    )


def _end(request: EngineRequest, known: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that end a request."""
    end_id, others = end_ids(request)
    if end_id != NO_END:
        return {"end_id": end_id, "pad_id": end_id, "stop_token_ids": others or None}
    if "ignore_eos" not in known:  # up to 0.14
        return {"end_id": NO_END, "pad_id": 0}
    # It drops all stop words too (2026); there are none.
    return {"end_id": 0, "pad_id": 0, "ignore_eos": True}


def bad_ids(request: EngineRequest) -> list[int]:
    """Return the ids that are never generated; longer words are refused before."""
    return sorted({ids[0] for ids in request.bad_words_token_ids if len(ids) == 1})


def logprob_count(count: int, vocab_size: int) -> int:
    """Return the number of tokens to ask for; 0 is off in late 2025."""
    return vocab_size if count == -1 else max(count, 1)


def guide(wanted: StructuredOutputs) -> dict[str, str]:
    """Return the argument of ``GuidedDecodingParams``, in llguidance's dialect.

    The engine's llguidance spells no text itself, because its tokenizer may change the
    text.
    """
    return {"grammar": structure_notation(wanted).unforced()}


def impossible(request: EngineRequest) -> str | None:
    """Return why no token can be sampled; `None` if one can.

    The sampler would draw among logits of minus infinity.
    """
    allowed = request.params.allowed_token_ids
    if allowed is None:
        return None
    early = request.stop_token_ids if request.params.min_tokens else frozenset[int]()
    if set(allowed) <= {*bad_ids(request), *early}:
        return "allowed_token_ids, bad_words and min_tokens forbid every token"
    return None


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
