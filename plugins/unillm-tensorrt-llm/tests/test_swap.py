# SPDX-License-Identifier: Apache-2.0

"""One program, unchanged: the environment alone says which engine runs it."""

from __future__ import annotations

import pytest
from trtllm_double.profiles import PROFILES

from unillm import Generator, SamplingParams
from unillm.errors import PromptTooLongError


def program():
    """What an application does. It names no backend."""
    prompts = ["Count from 3 to 9:", "Add 17 and 25:", "Spell the word apple:"]
    with Generator("unillm/tiny", max_model_len=512) as generator:
        answers = [
            (output.text, output.finish_reason, output.outputs[0].stop_reason)
            for output in generator.generate(
                prompts, SamplingParams(temperature=0, max_tokens=64)
            )
        ]
        [cut] = generator.generate(prompts[:1], SamplingParams(temperature=0))
        answers.append((cut.text, cut.finish_reason, None))
        [stopped] = generator.generate(
            prompts[:1], SamplingParams(temperature=0, max_tokens=64, stop="6")
        )
        answers.append((stopped.text, stopped.finish_reason, "6"))
        chat = [{"role": "user", "content": "Add 1 and 2:"}]
        [said] = generator.chat(chat, SamplingParams(temperature=0, max_tokens=32))
        answers.append((said.text, said.finish_reason, None))
        try:
            generator.generate([[1] * 600])
        except PromptTooLongError as error:
            answers.append((str(error), "error", None))
    return answers


@pytest.fixture(scope="module")
def expected():
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("UNILLM_BACKEND", "transformers")
        return program()


@pytest.mark.parametrize("version", PROFILES)
def test_the_same_program_gives_the_same_answers(
    install, monkeypatch, expected, version
):
    install(version)
    monkeypatch.setenv("UNILLM_BACKEND", "tensorrt-llm")

    assert expected == program()
