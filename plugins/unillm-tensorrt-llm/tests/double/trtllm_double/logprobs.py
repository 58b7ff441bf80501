# SPDX-License-Identifier: Apache-2.0

"""Log-probabilities of the LLM API (§4.5)."""

from __future__ import annotations

from .results import Logprob


def after_tokens(sequence, given, kind: str) -> list[dict]:
    """Return the entry of the last token; empty if none is asked for.

    The sampled token comes first, then the *k* best. ``0`` asks for the sampled token
    alone in 2026, and is off on PyTorch before.
    """
    count = getattr(given, "logprobs", None)
    is_2026 = hasattr(given, "logprobs_mode")
    if count is None or (count == 0 and kind == "pytorch" and not is_2026):
        return []
    return [_entry(sequence.raw, sequence.tokens[-1], count)]


def of_prompt(sequence, given, cached: int) -> list[dict]:
    """Return the entries of prompt tokens 2…n, and of the first generated one.

    Cached positions are missing, so ``enable_block_reuse`` has to be off.
    """
    count = getattr(given, "prompt_logprobs", None)
    if count is None:
        return []
    following = [*sequence.prompt[1:], sequence.tokens[0]]
    entries = [
        _entry(logits, token_id, count)
        for logits, token_id in zip(sequence.prompt_logits(), following, strict=True)
    ]
    return entries[cached:]


def _entry(logits, token_id: int, count: int) -> dict:
    values = logits.log_softmax(-1)
    best = values.topk(count).indices.tolist() if count else []
    return {
        each: Logprob(values[each].item(), int((values > values[each]).sum()) + 1)
        for each in dict.fromkeys([token_id, *best])
    }
