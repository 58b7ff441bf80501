# SPDX-License-Identifier: Apache-2.0

"""Sampling fields that published sources of TensorRT-LLM confirm."""

from __future__ import annotations

from unillm.backend import Capabilities, Capability, Support


def _not(reason: str) -> Capability:
    return Capability(support=Support.UNSUPPORTED, reason=reason)


CAPABILITIES = Capabilities(
    fields={
        "logprobs": _not(
            "no published source says whether its values are those before temperature "
            "and penalties, as the field promises"
        ),
        "prompt_logprobs": _not(
            "its entries belong to the next token, and no published source says "
            "whether they are those before temperature"
        ),
        "min_tokens": _not(
            "no published source says whether it bans all stop token ids or the EOS "
            "token alone"
        ),
        "structured_outputs": _not(
            "its guided decoding needs its own tokenizer and ends at that tokenizer's "
            "EOS token alone"
        ),
        "bad_words": _not(
            "its LLM API bans single token ids, and no published source says whether "
            "the runners match the start of a word in the prompt"
        ),
    }
)
"""The capabilities of all entry paths; an engine refines them."""

BY_BIAS = ("logit_bias", "allowed_token_ids")
"""Fields that a bias on the logits serves."""

NO_BIAS = _not("the runners take no bias; use the LLM API")
NO_MIN_P = _not("this version of TensorRT-LLM has no min_p")
