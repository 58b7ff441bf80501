# SPDX-License-Identifier: Apache-2.0

"""The same program on real vLLM and on unillm gives the same fields and values.

``vllm_answers.json`` holds the answers of vLLM 0.32 (on a CPU, float32). Where vLLM is
the backend, the tests compare the installed vLLM with the records too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from dropin.vllm_defaults import vllm_defaults
from dropin.vllm_program import CHATS, GENERATED, answers

from unillm import SamplingParams
from unillm.model.find import find_model
from unillm.params import SamplingParamsWarning
from unillm.vllm_api.engine_args import recorded_defaults, stated_arguments

HERE = Path(__file__).parent
RECORDED = json.loads((HERE / "vllm_answers.json").read_text("utf-8"))
TOLERANCE = 1e-3
"""Largest difference of a log-probability between two engines in float32."""

on_vllm = pytest.mark.skipif(
    os.environ.get("UNILLM_BACKEND") != "vllm", reason="vLLM is not the backend"
)


@pytest.fixture(scope="session")
def ours(llm):
    with warnings.catch_warnings():  # that a default cuts an answer
        warnings.simplefilter("ignore", SamplingParamsWarning)
        return answers(llm, SamplingParams)


def differences(theirs, ours, place=""):
    """List where two JSON values differ by more than a number's last digits."""
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
    elif theirs == ours:
        return []
    else:
        return [(place, theirs, ours)]
    return [each for where, *both in pairs for each in differences(*both, where)]


def test_the_record_has_every_answer_of_the_program():
    assert set(RECORDED) == {*GENERATED, *CHATS}


@pytest.mark.parametrize("name", [*GENERATED, *CHATS])
def test_each_answer_is_vllms(ours, name):
    assert differences(RECORDED[name], ours[name]) == []


def test_the_comparison_sees_a_difference():
    assert differences([{"a": 1.0}], [{"a": 1.1}]) == [("[0].a", 1.0, 1.1)]
    assert differences({"a": 1}, {"a": None}) == [(".a", 1, None)]
    assert differences([1], [1, 2]) == [("", [1], [1, 2])]


@on_vllm
def test_the_recorded_defaults_are_those_of_the_installed_vllm():
    assert recorded_defaults() == vllm_defaults()


@on_vllm
def test_an_object_of_engine_args_with_defaults_states_nothing():
    from vllm import EngineArgs

    given = {**vars(EngineArgs(model="unillm/tiny", max_model_len=64))}

    stated = stated_arguments(given, given.pop("model"))

    assert stated == {"max_model_len": 64}


@on_vllm
def test_the_recorded_answers_are_those_of_the_installed_vllm():
    run = subprocess.run(
        [sys.executable, HERE / "vllm_program.py", "vllm", find_model("unillm/tiny")],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )

    assert run.returncode == 0, run.stderr[-2000:]
    assert differences(RECORDED, json.loads(run.stdout)) == []
