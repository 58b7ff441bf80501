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
from unillm.testing.backends import plugged, reference_backend

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


# ------------------------------------------------------------------------- of some tokens


def test_the_logprobs_of_named_tokens_are_those_of_the_whole_vocabulary(tiny):
    [yes, no] = (tiny.get_tokenizer().encode(text)[-1] for text in ("yes", "no"))
    asked = {"temperature": 1.5, "seed": 1, "max_tokens": 6}

    outputs = tiny.generate(
        [COUNT] * 3,
        [
            SamplingParams(**asked, logprob_token_ids=[yes, no]),
            SamplingParams(**asked, logprobs=2),
            SamplingParams(**asked, logprobs=1, logprob_token_ids=[7]),
        ],
        use_tqdm=False,
    )
    with LLM("unillm/tiny", backend="transformers", max_logprobs=-1) as llm:
        [whole] = llm.generate(COUNT, SamplingParams(**asked, logprobs=-1))

    labels, best, seven = (each.outputs[0] for each in outputs)
    for step, everything in enumerate(whole.outputs[0].logprobs):
        chosen = whole.outputs[0].token_ids[step]
        entries = labels.logprobs[step]
        assert list(entries) == list(dict.fromkeys([chosen, yes, no]))
        assert entries[chosen] == everything[chosen]
        for each in {yes, no} - {chosen}:
            assert entries[each].rank is None
            assert entries[each].logprob == pytest.approx(everything[each].logprob)
        assert set(seven.logprobs[step]) == {chosen, 7}
        assert len(best.logprobs[step]) in (2, 3)
    assert labels.cumulative_logprob == pytest.approx(best.cumulative_logprob)


def test_tokens_that_the_vocabulary_lacks_are_refused(tiny):
    with pytest.raises(
        ValueError, match="logprob_token_ids has 512, out of vocabulary"
    ):
        tiny.generate(COUNT, SamplingParams(logprob_token_ids=[5, 512]))


def test_an_engine_that_returns_the_whole_vocabulary_is_asked_for_it():
    params = SamplingParams(temperature=0, max_tokens=2, logprob_token_ids=[7, 5])
    with (
        plugged(reference_backend(name="numbers")),
        LLM("unillm/tiny", backend="numbers") as llm,
    ):
        [output] = llm.generate(COUNT, params, use_tqdm=False)

    chosen = output.outputs[0].token_ids
    entries = [list(each) for each in output.outputs[0].logprobs]
    assert entries == [[chosen[0], 7, 5], [chosen[1], 7, 5]]
