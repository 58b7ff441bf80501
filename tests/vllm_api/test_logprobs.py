# SPDX-License-Identifier: Apache-2.0

"""The forms that log-probabilities have in vLLM's API."""

from __future__ import annotations

import copy
import dataclasses
import gc
import math
import pickle

import pytest

from unillm import LLM, FlatLogprobs, Logprob, SamplingParams

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


# --------------------------------------------------------------------------------- flat


@pytest.fixture(scope="module")
def tiny():
    with LLM("unillm/tiny", backend="transformers") as llm:
        yield llm


def test_flat_logprobs_read_like_the_list(tiny):
    asked = {"temperature": 0, "max_tokens": 5, "logprobs": 2, "prompt_logprobs": 1}
    texts = "Repeat: 日本:"  # characters of several tokens

    [listed] = tiny.generate(texts, SamplingParams(**asked), use_tqdm=False)
    [flat] = tiny.generate(
        texts, SamplingParams(**asked, flat_logprobs=True), use_tqdm=False
    )

    assert isinstance(flat.prompt_logprobs, FlatLogprobs)
    assert flat.prompt_logprobs[0] == {}
    assert list(flat.prompt_logprobs[1:]) == listed.prompt_logprobs[1:]
    completion = flat.outputs[0]
    assert isinstance(completion.logprobs, FlatLogprobs)
    assert list(completion.logprobs) == listed.outputs[0].logprobs
    assert completion.cumulative_logprob == listed.outputs[0].cumulative_logprob


def test_the_parts_of_a_stream_join_to_flat_logprobs(tiny):
    params = SamplingParams(max_tokens=8, logprobs=1, flat_logprobs=True, seed=3)
    joined = FlatLogprobs()

    handle = tiny.generator.submit(COUNT, params)
    for delta in handle:
        assert isinstance(delta.logprobs, FlatLogprobs)
        joined.extend(delta.logprobs)

    assert joined == handle.result().outputs[0].logprobs


def test_flat_logprobs_are_six_lists_however_many_they_are():
    flat = FlatLogprobs()
    flat.extend({5: Logprob(-0.5, 1, "a"), 7: Logprob(-1.5, 2, "b")} for _ in range(9))
    flat.append(None)

    assert len(flat) == 10
    assert (flat[-1], flat[8]) == ({}, flat[0])
    assert flat[0] == {5: Logprob(-0.5, 1, "a"), 7: Logprob(-1.5, 2, "b")}
    assert list(flat[7:]) == [flat[0], flat[0], {}]
    assert flat[7:].start_indices == [0, 2, 4]
    assert list(flat[::-3]) == [{}, flat[0], flat[0], flat[0]]
    assert len(flat[4:4]) == 0
    with pytest.raises(IndexError):
        flat[10]
    assert pickle.loads(pickle.dumps(flat)) == copy.deepcopy(flat) == flat
    assert len(dataclasses.asdict(flat)["logprobs"]) == 18
    assert not any(map(gc.is_tracked, flat.logprobs))
