# SPDX-License-Identifier: Apache-2.0

"""Aspects: uses of a sampling field that an engine may lack although it has the field.

An aspect is a name in `Capabilities`, made of the name of a field, or of another
aspect, and a word. An aspect that a backend does not name is honoured as the one before
its last dot.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .base import EngineRequest

LARGE_TOP_K = 1024
"""A larger `top_k` is the aspect ``"top_k.large"``: GPU kernels that sort the best
tokens in shared memory, as TensorRT-LLM's do, keep no more."""

ASPECTS: Mapping[str, str] = MappingProxyType(
    {
        "bad_words.sequences": "a bad word of several tokens",
        "bad_words.sequences.ids": "a bad word of several tokens without its text",
        "logprobs.changed": "logprobs beside a field that changes the logits",
        "logprobs.top": "the log-probabilities of other tokens than the chosen one",
        "min_tokens.ignored_eos": "min_tokens with stop_token_ids under ignore_eos",
        "min_p.top_p": "min_p beside top_p",
        "min_tokens.stop_ids": "min_tokens with several token ids that end",
        "structured_outputs.choice": "a choice of texts",
        "structured_outputs.grammar": "a grammar",
        "structured_outputs.json": "a JSON schema",
        "structured_outputs.json_object": "a JSON object of any kind",
        "structured_outputs.regex": "a regular expression",
        "top_k.large": f"top_k above {LARGE_TOP_K} and below the vocabulary's size",
    }
)
"""Name to meaning. The part before the first dot is the field."""

_CHANGES_LOGITS = (
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "min_tokens",
    "logit_bias",
    "allowed_token_ids",
    "bad_words",
    "structured_outputs",
)


def aspects_of(request: EngineRequest, *, vocab_size: int) -> Iterator[str]:
    """Yield the aspects that a request uses."""
    params = request.params
    words = request.bad_words_token_ids
    # A sequence whose last id is banned everywhere adds nothing.
    alone = {ids[0] for ids in words if len(ids) == 1}
    if any(ids[-1] not in alone for ids in words):
        yield "bad_words.sequences"
        if not params.bad_words:  # which the requests of a `Generator` have
            yield "bad_words.sequences.ids"
    changes = any(uses(request, name) for name in _CHANGES_LOGITS)
    if params.logprobs is not None and changes:
        yield "logprobs.changed"
    if params.logprobs:
        yield "logprobs.top"
    if not params.greedy and params.min_p > 0 and params.top_p < 1:
        yield "min_p.top_p"
    if params.min_tokens and params.ignore_eos and request.stop_token_ids:
        yield "min_tokens.ignored_eos"
    if params.min_tokens and len(request.stop_token_ids) > 1:
        yield "min_tokens.stop_ids"
    if params.structured_outputs is not None:
        yield f"structured_outputs.{params.structured_outputs.kind}"
    if not params.greedy and LARGE_TOP_K < params.top_k < vocab_size:
        yield "top_k.large"


def uses(request: EngineRequest, name: str) -> bool:
    """Return whether a sampling field of a request differs from its default.

    Bad words count by their token ids, which a request may have without their texts.
    """
    if name == "bad_words":
        return bool(request.bad_words_token_ids)
    return not request.params.is_default(name)
