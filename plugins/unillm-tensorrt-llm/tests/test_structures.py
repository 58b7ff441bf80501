# SPDX-License-Identifier: Apache-2.0

"""Structures mean on PyTorch's LLM class what they mean on the embedded backend."""

from __future__ import annotations

import json
import re

import pytest

from unillm import Generator, SamplingParams
from unillm.errors import InvalidParameterError

COUNT = "Count from 3 to 9:"
OPTIONS = [f"the option {number} {'xyz'[number % 3] * 8}" for number in range(10_000)]
SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["fox", "the dog"]}, "right": {"type": "boolean"}},
    "required": ["name", "right"],
    "additionalProperties": False,
}
STRUCTURES = {
    "json": (
        {"json": SCHEMA, "disable_any_whitespace": True},
        lambda text: list(json.loads(text)) == ["name", "right"],
    ),
    "oneOf": (
        {"json": {"oneOf": [{"enum": ["a", "b"]}, {"enum": ["b", 1]}]}},
        lambda text: json.loads(text) in ("a", 1),
    ),
    "regex": ({"regex": 'a/"[bc]{3}'}, lambda text: re.fullmatch('a/"[bc]{3}', text)),
    "options": ({"choice": OPTIONS}, lambda text: text in OPTIONS),
    "lark": ({"grammar": '?start: "(" start ")" | "x"'}, lambda text: "x" in text),
    "gbnf": (
        {"grammar": 'root ::= ("a" | "ab") "bc" [0-9]{2}'},
        lambda text: re.fullmatch("ab?bc[0-9]{2}", text),
    ),
}


@pytest.fixture(scope="module")
def reference():
    with Generator("unillm/tiny", backend="transformers", dtype="float32") as generator:
        yield generator


@pytest.fixture(params=["1.2", "1.4"])
def generator(request, install):
    install(request.param)
    with Generator(
        "unillm/tiny",
        backend="tensorrt-llm",
        backend_options={
            "guided_decoding_backend": "llguidance",
        },
    ) as generator:
        yield generator


def structured(wanted) -> SamplingParams:
    return SamplingParams(temperature=0, max_tokens=60, structured_outputs=wanted)


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_structure_holds(generator, reference, name):
    wanted, conforms = STRUCTURES[name]

    [ours] = reference.generate(COUNT, structured(wanted))
    [theirs] = generator.generate(COUNT, structured(wanted))

    assert theirs.finish_reason == ours.finish_reason == "stop"
    assert conforms(ours.text)
    assert conforms(theirs.text)


def test_a_wrong_structure_is_refused_before_tensorrt_llm_sees_it(generator):
    with pytest.raises(InvalidParameterError, match="the rule 'other' is not defined"):
        generator.submit(COUNT, structured({"grammar": "root ::= other"}))
