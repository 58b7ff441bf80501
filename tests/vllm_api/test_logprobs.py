# SPDX-License-Identifier: Apache-2.0

"""The forms that log-probabilities have in vLLM's API."""

from __future__ import annotations

import math

import pytest

from unillm import LLM, SamplingParams

COUNT = "Count from 3 to 9:"
MODES = ("raw_logprobs", "raw_logits", "processed_logprobs", "processed_logits")


@pytest.fixture(scope="module")
def by_mode():
    """The output of one request, by the mode of the engine."""
    outputs = {}
    params = SamplingParams(
        temperature=0.5, top_k=2, seed=1, max_tokens=4, logprobs=-1, prompt_logprobs=-1
    )
    for mode in MODES:
        with LLM(
            "unillm/tiny", backend="transformers", logprobs_mode=mode, max_logprobs=-1
        ) as llm:
            [outputs[mode]] = llm.generate(COUNT, params, use_tqdm=False)
    return outputs


def values_of(entries):
    return {token_id: each.logprob for token_id, each in entries.items()}


def test_a_mode_chooses_what_logprobs_are(by_mode):
    raw, logits, processed, scores = (
        [values_of(each) for each in by_mode[mode].outputs[0].logprobs]
        for mode in MODES
    )

    for step in range(4):
        top = sorted(logits[step], key=lambda each: -logits[step][each])[:2]
        shift = {logits[step][each] - raw[step][each] for each in logits[step]}
        assert max(shift) - min(shift) < 1e-4  # one number for the whole vocabulary
        for each in logits[step]:
            score = logits[step][each] / 0.5 if each in top else -math.inf
            assert scores[step][each] == pytest.approx(score, abs=1e-4)
        assert sum(map(math.exp, processed[step].values())) == pytest.approx(1)
        assert sum(value > -math.inf for value in processed[step].values()) == 2


def test_prompt_tokens_have_the_scores_of_the_model_in_each_mode(by_mode):
    raw, logits, processed, scores = (
        [values_of(each) for each in by_mode[mode].prompt_logprobs[1:]]
        for mode in MODES
    )

    assert processed == raw
    assert scores == logits
    assert sum(map(math.exp, raw[0].values())) == pytest.approx(1)
    assert max(logits[0].values()) > 0
