# SPDX-License-Identifier: Apache-2.0

"""The backend on real vLLM: the same answers, ends and errors as the embedded one."""

from __future__ import annotations

import dataclasses
import random

import pytest
from unillm_vllm._loading import _vllm_config

from unillm import Generator, SamplingParams
from unillm.errors import (
    ConfigError,
)
from unillm.model.find import BUNDLED
from unillm.preparation import plan_engine
from unillm.resolve import configure

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


def test_greedy_answers_equal_those_of_the_embedded_backend(generator, reference):
    numbers = random.Random(0)
    prompts = [
        f"Count from {numbers.randint(0, 40)} to {numbers.randint(0, 40)}:"
        for _ in range(60)
    ]

    ours = generator.generate(prompts, GREEDY)
    theirs = reference.generate(prompts, GREEDY)

    assert [fields(output) for output in ours] == [fields(output) for output in theirs]


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

    assert fields(ours) == fields(theirs)


def test_num_cached_tokens_counts_a_prefix_cache_hit(generator):
    prompt = [10 + n % 90 for n in range(300)]
    params = SamplingParams(temperature=0, max_tokens=1)

    [first] = generator.generate(prompt, params)
    [second] = generator.generate(prompt, params)

    assert first.num_cached_tokens == 0
    assert 0 < second.num_cached_tokens < len(prompt)


def test_an_unknown_option_names_the_known_ones_and_suggests_the_nearest():
    known = "takes every field of vllm.EngineArgs and 'multiprocessing'"
    with pytest.raises(ConfigError, match=f"{known}.* mean 'enforce_eager'"):
        Generator("unillm/tiny", backend="vllm", backend_options={"enforce_eagre": 1})


def test_a_value_that_vllm_refuses_is_a_config_error():
    with pytest.raises(ConfigError, match="vLLM refused the configuration"):
        Generator("unillm/tiny", backend="vllm", backend_options={"block_size": "many"})


def test_a_text_ends_with_its_last_whole_character_wherever_the_length_ends_it(
    generator, reference
):
    prompt = "Repeat: 日本 🙂 café:"
    [whole] = reference.generate(prompt, SamplingParams(temperature=0, max_tokens=60))
    cuts = range(1, len(whole.token_ids))
    params = [SamplingParams(temperature=0, max_tokens=count) for count in cuts]

    outputs = generator.generate([prompt] * len(cuts), params)
    deltas = [list(generator.stream(prompt, each)) for each in params]

    decode = generator.get_tokenizer().decode
    shown = [decode(whole.token_ids[:count]) for count in cuts]
    assert sum(text.endswith("\ufffd") for text in shown) >= 8
    assert [output.text for output in outputs] == [t.rstrip("\ufffd") for t in shown]
    assert [output.token_ids for output in outputs] == [
        whole.token_ids[:count] for count in cuts
    ]
    assert ["".join(delta.text for delta in each) for each in deltas] == [
        output.text for output in outputs
    ]


@pytest.fixture
def scheduler_of_llm(monkeypatch):
    """The configuration of the scheduler that `vllm.LLM` would start with."""
    from vllm import LLM, LLMEngine

    found = []

    def note_and_stop(engine_args, usage_context):
        found.append(engine_args.create_engine_config(usage_context))
        raise InterruptedError

    monkeypatch.setattr(LLMEngine, "from_engine_args", note_and_stop)
    with pytest.raises(InterruptedError):
        LLM(str(BUNDLED["unillm/tiny"]), max_model_len=512)
    return found[0].scheduler_config


def test_a_step_has_as_many_requests_and_tokens_as_with_llm(scheduler_of_llm):
    config = configure("unillm/tiny", "vllm", max_model_len=512)

    ours = dataclasses.asdict(_vllm_config(config, {}).scheduler_config)

    theirs = dataclasses.asdict(scheduler_of_llm)
    assert {name for name in ours if ours[name] != theirs[name]} == {"policy"}


def test_a_plan_counts_as_many_requests_as_llm_takes(scheduler_of_llm):
    planned = plan_engine("unillm/tiny", backend="vllm").memory.limits

    assert planned.max_num_seqs == scheduler_of_llm.max_num_seqs
