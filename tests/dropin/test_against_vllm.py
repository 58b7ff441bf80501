# SPDX-License-Identifier: Apache-2.0

"""The same program on real vLLM and here: the same fields with the same values.

What real vLLM 0.32 said (on a CPU, float32) is kept in ``vllm_answers.json``; where vLLM
is the backend, an installed vLLM is asked again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from dropin.vllm_program import CHATS, GENERATED, answers

from unillm import SamplingParams
from unillm.model.find import find_model
from unillm.vllm_api.engine_args import DEFAULTS, sort_arguments

HERE = Path(__file__).parent
RECORDED = json.loads((HERE / "vllm_answers.json").read_text("utf-8"))
TOLERANCE = 1e-3
"""Of a log-probability, between two engines in float32."""


on_vllm = pytest.mark.skipif(
    os.environ.get("UNILLM_BACKEND") != "vllm", reason="vLLM is not the backend"
)


@pytest.fixture(scope="session")
def ours(llm):
    return answers(llm, SamplingParams)


def differences(theirs, ours, place=""):
    """Where two JSON values differ by more than a number's last digits."""
    if isinstance(theirs, float) and isinstance(ours, float):
        return [] if abs(theirs - ours) <= TOLERANCE else [(place, theirs, ours)]
    if (
        isinstance(theirs, dict)
        and isinstance(ours, dict)
        and theirs.keys() == ours.keys()
    ):
        pairs = [(f"{place}.{key}", theirs[key], ours[key]) for key in theirs]
    elif (
        isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours)
    ):
        pairs = [
            (f"{place}[{index}]", *both)
            for index, both in enumerate(zip(theirs, ours, strict=True))
        ]
    elif theirs == ours or (theirs, ours) == ("", "\ufffd"):
        # Part of a character: U+FFFD here, "" in vLLM, as docs/reference/vllm-api.md says.
        return []
    else:
        return [(place, theirs, ours)]
    return [each for where, *both in pairs for each in differences(*both, where)]


def test_nothing_that_was_asked_is_missing():
    assert {*GENERATED, *CHATS} == set(RECORDED)


@pytest.mark.parametrize("name", [*GENERATED, *CHATS])
def test_each_answer_is_vllms(ours, name):
    assert [] == differences(RECORDED[name], ours[name])


def test_a_difference_would_be_seen():
    assert [("[0].a", 1.0, 1.1)] == differences([{"a": 1.0}], [{"a": 1.1}])
    assert [(".a", 1, None)] == differences({"a": 1}, {"a": None})
    assert [("", [1], [1, 2])] == differences([1], [1, 2])


@on_vllm
def test_every_engine_argument_of_the_installed_vllm_is_known():
    import dataclasses

    from vllm import EngineArgs

    names = {field.name for field in dataclasses.fields(EngineArgs)}

    assert {*DEFAULTS, "model"} - {"chat_template"} == names


@on_vllm
def test_an_object_of_engine_args_that_says_nothing_is_taken():
    from vllm import EngineArgs

    given = vars(EngineArgs(model="unillm/tiny", max_model_len=64))

    told = sort_arguments({k: v for k, v in given.items() if k != "model"}, owner="LLM")

    assert {"max_model_len": 64} == told.shared
    assert {} == told.text | told.effort | told.own


@on_vllm
def test_the_installed_vllm_still_says_what_was_recorded():
    run = subprocess.run(
        [sys.executable, HERE / "vllm_program.py", "vllm", find_model("unillm/tiny")],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )

    assert 0 == run.returncode, run.stderr[-2000:]
    assert [] == differences(RECORDED, json.loads(run.stdout))
