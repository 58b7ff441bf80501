# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest

from unillm import Generator, SamplingParams


@pytest.fixture(scope="module")
def output():
    with Generator("unillm/tiny", backend="transformers", max_model_len=128) as tiny:
        [output] = tiny.generate("Count from 3 to 9:", SamplingParams(logprobs=1))
    return output


def test_an_output_is_a_dataclass_that_may_be_written(output):
    changed = copy.deepcopy(output)

    changed.prompt = "another"
    changed.outputs[0].text += "!"
    changed.note = "of the program's own"
    next(iter(changed.outputs[0].logprobs[0].values())).decoded_token = "x"

    assert vars(changed)["prompt"] == "another"
    assert changed.text == output.text + "!"
    assert changed != output
    assert dataclasses.replace(output, prompt="another").prompt == "another"


def test_an_output_is_plain_values_as_a_dict(output):
    plain = dataclasses.asdict(output)

    [completion] = plain["outputs"]
    assert completion["text"] == output.text
    assert completion["logprobs"][0][output.token_ids[0]]["rank"] == 1
    assert plain["metrics"]["slots"]["prefill_chunks"] == 1
    assert (plain["lora_request"], completion["lora_request"]) == (None, None)


def test_an_output_survives_pickling(output):
    assert pickle.loads(pickle.dumps(output)) == output
