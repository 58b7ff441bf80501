# SPDX-License-Identifier: Apache-2.0

"""What TensorRT-LLM is trusted with: what published sources say, and no more."""

from __future__ import annotations

from unillm.backend import Capabilities, Capability, Support


def _not(reason: str) -> Capability:
    return Capability(support=Support.UNSUPPORTED, reason=reason)


CAPABILITIES = Capabilities(
    fields={
        "logprobs": _not(
            "no published source says whether its values are those before temperature "
            "and penalties, which is what the field promises"
        ),
        "prompt_logprobs": _not(
            "its entries belong to the next token, and whether they are those before "
            "temperature was not published"
        ),
        "min_tokens": _not(
            "no published source says whether it holds back stop token ids, or the one "
            "end id alone"
        ),
        "structured_outputs": _not(
            "its guided decoding needs its own tokenizer and ends at that tokenizer's "
            "end id alone"
        ),
        "bad_words": _not(
            "its LLM API bans single token ids, and whether the runners look for the "
            "start of a word in the prompt was not published"
        ),
    }
)
"""Of every door. A door that can do less says so itself."""

BY_BIAS = ("logit_bias", "allowed_token_ids")
"""Fields that are served by a bias on the logits."""

NO_BIAS = _not("the runners take no bias; use the LLM API")
NO_MIN_P = _not("this version of TensorRT-LLM has no min_p")
