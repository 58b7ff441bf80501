# SPDX-License-Identifier: Apache-2.0

"""`Logprob.decoded_token` in `LLM`; the vLLM plugin compares it with vLLM itself."""

from __future__ import annotations

import pytest

from unillm import LLM, SamplingParams
from unillm.errors import RequestsFailedError

EMOJI = "Repeat: 日本 🙂 café:"


@pytest.fixture(scope="module")
def tiny():
    with LLM("unillm/tiny", backend="transformers") as llm:
        yield llm


def own_texts(token_ids, positions):
    return [
        entries[token_id].decoded_token
        for token_id, entries in zip(token_ids, positions, strict=True)
    ]


def test_the_last_byte_of_a_character_has_its_text_and_those_before_none(tiny):
    params = SamplingParams(temperature=0, max_tokens=40, logprobs=2, prompt_logprobs=0)

    [output] = tiny.generate(EMOJI, params, use_tqdm=False)

    completion = output.outputs[0]
    texts = own_texts(completion.token_ids, completion.logprobs)
    assert texts[:4] == ["", "", "日", ""]
    assert "".join(texts).startswith(completion.text)
    others = {e.decoded_token for at in completion.logprobs for e in at.values()}
    assert not any(text.endswith("\ufffd") for text in others)
    prompt = own_texts(output.prompt_token_ids[1:], output.prompt_logprobs[1:])
    assert "".join(prompt) == EMOJI


def test_the_steps_of_its_engine_have_them_too(tiny):
    tiny.llm_engine.add_request(
        "a", EMOJI, SamplingParams(temperature=0, max_tokens=4, logprobs=0)
    )

    while tiny.llm_engine.has_unfinished_requests():
        [output] = tiny.llm_engine.step()

    completion = output.outputs[0]
    texts = own_texts(completion.token_ids, completion.logprobs)
    assert texts == ["", "", "日", ""]


def test_a_generator_has_the_text_of_each_token_alone(tiny):
    params = SamplingParams(temperature=0, max_tokens=4, logprobs=0)

    [output] = tiny.generator.generate(EMOJI, params)

    completion = output.outputs[0]
    assert own_texts(completion.token_ids, completion.logprobs) == ["\ufffd"] * 4


def test_the_results_beside_a_refused_prompt_have_them_too(tiny):
    params = SamplingParams(temperature=0, max_tokens=3, logprobs=0)

    with pytest.raises(RequestsFailedError) as caught:
        tiny.generate([EMOJI, ""], params, use_tqdm=False)

    completion = caught.value.results[0].outputs[0]
    assert own_texts(completion.token_ids, completion.logprobs) == ["", "", "日"]


def test_without_detokenising_there_are_no_texts(tiny):
    params = SamplingParams(max_tokens=3, logprobs=1, detokenize=False)

    [output] = tiny.generate(EMOJI, params, use_tqdm=False)

    entries = [each for at in output.outputs[0].logprobs for each in at.values()]
    assert {entry.decoded_token for entry in entries} == {None}
