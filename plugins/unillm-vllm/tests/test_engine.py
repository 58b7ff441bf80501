# SPDX-License-Identifier: Apache-2.0

"""The backend on real vLLM: the same answers, ends and errors as the embedded one."""

from __future__ import annotations

import random
import threading
import time

import pytest

from unillm import Generator, SamplingParams
from unillm.errors import (
    ConfigError,
    PromptTooLongError,
    RequestCancelledError,
    RequestsFailedError,
)

COUNT = "Count from 3 to 9:"
NUMBERS = "3 4 5 6 7 8 9"
GREEDY = SamplingParams(temperature=0, max_tokens=100)
ENDLESS = SamplingParams(temperature=0, max_tokens=None, ignore_eos=True)


def fields(output):
    completion = output.outputs[0]
    return (
        output.prompt_token_ids,
        completion.text,
        completion.token_ids,
        completion.finish_reason,
        completion.stop_reason,
    )


def test_a_prompt_becomes_truthful_text(generator):
    [output] = generator.generate(COUNT)

    assert (NUMBERS, "stop") == (output.text, output.finish_reason)


def test_greedy_answers_equal_those_of_the_embedded_backend(generator, reference):
    numbers = random.Random(0)
    prompts = [
        f"Count from {numbers.randint(0, 40)} to {numbers.randint(0, 40)}:"
        for _ in range(60)
    ]

    ours = generator.generate(prompts, GREEDY)
    theirs = reference.generate(prompts, GREEDY)

    assert [fields(output) for output in theirs] == [fields(output) for output in ours]


@pytest.mark.parametrize(
    "given",
    [
        {"max_tokens": 5},
        {"stop": "7"},
        {"stop": ["5 6", "8"], "include_stop_str_in_output": True},
        {"ignore_eos": True, "max_tokens": 30},
        {"min_tokens": 20, "max_tokens": 40},
        {"repetition_penalty": 1.3, "max_tokens": 20},
        {"frequency_penalty": 0.5, "presence_penalty": 0.5, "max_tokens": 20},
        {"skip_special_tokens": False, "include_stop_str_in_output": True},
        {"truncate_prompt_tokens": 6},
    ],
    ids=str,
)
def test_every_rule_ends_as_on_the_embedded_backend(generator, reference, given):
    params = SamplingParams(**{"temperature": 0, "max_tokens": 50, **given})

    [ours] = generator.generate(COUNT, params)
    [theirs] = reference.generate(COUNT, params)

    assert fields(theirs) == fields(ours)


def test_stop_ids_are_reported(generator, reference):
    second = reference.generate(COUNT, GREEDY)[0].token_ids[2]
    params = SamplingParams(temperature=0, stop_token_ids=[second], max_tokens=50)

    [ours] = generator.generate(COUNT, params)
    [theirs] = reference.generate(COUNT, params)

    assert fields(theirs) == fields(ours)
    assert second == ours.outputs[0].stop_reason


def test_logprobs_have_the_same_shape_and_nearly_the_same_values(generator, reference):
    params = SamplingParams(temperature=0, max_tokens=6, logprobs=3)

    [ours] = generator.generate(COUNT, params)
    [theirs] = reference.generate(COUNT, params)

    for mine, other in zip(
        ours.outputs[0].logprobs, theirs.outputs[0].logprobs, strict=True
    ):
        assert list(other) == list(mine)
        for token_id, entry in mine.items():
            assert entry.logprob == pytest.approx(other[token_id].logprob, abs=1e-3)
            assert entry.rank == other[token_id].rank
            assert entry.decoded_token == other[token_id].decoded_token


def test_a_seed_makes_a_request_reproducible(generator):
    params = SamplingParams(temperature=2.0, seed=5, max_tokens=60, n=2)
    unsure = "qwerty zxc %%"  # sampling has something to choose

    [first] = generator.generate(unsure, params)
    [second] = generator.generate(unsure, params)

    assert fields(first) == fields(second)
    assert first.outputs[0].token_ids != first.outputs[1].token_ids


def test_one_bad_prompt_takes_no_good_one_with_it(generator):
    with pytest.raises(RequestsFailedError) as caught:
        generator.generate([COUNT, [10] * 600, COUNT], GREEDY)

    assert isinstance(caught.value.errors[1], PromptTooLongError)
    texts = [None if r is None else r.text for r in caught.value.results]
    assert [NUMBERS, None, NUMBERS] == texts


def test_streams_add_up(generator):
    deltas = list(generator.stream(COUNT, GREEDY))

    assert NUMBERS == "".join(delta.text for delta in deltas)
    assert "stop" == deltas[-1].finish_reason


def test_a_cancelled_request_leaves_nothing_queued(generator):
    handle = generator.submit(COUNT, ENDLESS)
    next(iter(handle))
    handle.cancel()

    with pytest.raises(RequestCancelledError):
        handle.result()
    assert [NUMBERS] == [output.text for output in generator.generate([COUNT], GREEDY)]
    until = time.monotonic() + 10
    while generator.stats()["engine"]["unfinished"]:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_several_threads_use_one_generator(generator):
    texts = []

    def ask():
        texts.extend(o.text for o in generator.generate([COUNT] * 5, GREEDY))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert [NUMBERS] * 30 == texts


def test_a_prefix_cache_hit_is_told(generator):
    prompt = [10 + n % 90 for n in range(300)]
    params = SamplingParams(temperature=0, max_tokens=1)

    [first] = generator.generate(prompt, params)
    [second] = generator.generate(prompt, params)

    assert 0 == first.num_cached_tokens
    assert 0 < second.num_cached_tokens < len(prompt)


def test_an_unknown_option_suggests_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'enforce_eager'"):
        Generator("unillm/tiny", backend="vllm", backend_options={"enforce_eagre": 1})


def test_a_value_that_vllm_refuses_is_told():
    with pytest.raises(ConfigError, match="vLLM refused the configuration"):
        Generator("unillm/tiny", backend="vllm", backend_options={"block_size": "many"})
