# SPDX-License-Identifier: Apache-2.0

"""`structured_outputs_config` off vLLM: a default for the params of all requests."""

from __future__ import annotations

import json

import pytest

from unillm import LLM, SamplingParams, StructuredOutputs
from unillm.text.notation import structure_notation

SCHEMA = {
    "type": "object",
    "properties": {"a": {"const": 1}, "b": {"const": 2}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
CONFIG = {"backend": "xgrammar", "disable_any_whitespace": True}


class VllmConfig:
    """An object like vLLM's own."""

    def __init__(self):
        self.backend, self.disable_any_whitespace = "guidance", True


@pytest.mark.parametrize("config", [CONFIG, VllmConfig()], ids=["dict", "object"])
def test_json_has_no_spaces_by_every_entry_path(config):
    with LLM(
        "unillm/tiny", backend="transformers", structured_outputs_config=config
    ) as llm:
        [space] = llm.get_tokenizer().encode(" ", add_special_tokens=False)
        params = SamplingParams(
            temperature=0,
            max_tokens=40,
            logit_bias={space: 100},  # as many spaces as may be
            structured_outputs={"json": SCHEMA},
        )
        [output] = llm.generate("JSON:", params, use_tqdm=False)
        llm.llm_engine.add_request("a", "JSON:", params)
        while llm.llm_engine.has_unfinished_requests():
            [stepped] = llm.llm_engine.step()

        [spaced] = llm.generator.generate(["JSON:"], params)

    compact = '{"a":1,"b":2}'
    assert (output.outputs[0].text, stepped.outputs[0].text) == (compact, compact)
    assert spaced.text.startswith("{ ")
    assert params.structured_outputs.disable_any_whitespace is False


def test_other_structures_stay_as_they_are():
    with LLM(
        "unillm/tiny", backend="transformers", structured_outputs_config=CONFIG
    ) as llm:
        params = [
            SamplingParams(structured_outputs={"choice": ["yes or no"]}),
            SamplingParams(structured_outputs={"json_object": True}, max_tokens=64),
        ]
        [chosen, made] = llm.generate(["A:", "B:"], params, use_tqdm=False)

    assert chosen.outputs[0].text == "yes or no"
    assert made.outputs[0].text.startswith("{")


def test_the_json_of_outlines_has_no_line_ends():
    config = {"backend": "outlines"}
    with LLM(
        "unillm/tiny", backend="transformers", structured_outputs_config=config
    ) as llm:
        line = llm.get_tokenizer().encode("\n", add_special_tokens=False)[-1]
        asked = {"temperature": 0, "max_tokens": 40, "logit_bias": {line: 100}}
        own = {"json": SCHEMA, "whitespace_pattern": "\n"}
        params = [
            SamplingParams(**asked, structured_outputs=each)
            for each in ({"json": SCHEMA}, own)
        ]
        outputs = llm.generate(["A:", "A:"], params, use_tqdm=False)

    assert ["\n" in each.outputs[0].text for each in outputs] == [False, True]


def test_objects_have_no_other_properties_if_the_engine_or_the_request_says_so():
    schema = {
        "type": "object",
        "properties": {"b": {"type": "object", "properties": {"properties": {}}}},
        "required": ["b"],
    }
    config = {"disable_additional_properties": True}
    asked = {"temperature": 0, "max_tokens": 48}
    text = '{"b": {"properties": 1, "c": 1}}'

    def fits(**options):
        wanted = StructuredOutputs(json=schema, **options)
        compiled = json.loads(structure_notation(wanted).text)
        inner = compiled["properties"]["b"]
        return [each.get("additionalProperties") for each in (compiled, inner)]

    assert fits() == [None, None]
    assert fits(disable_additional_properties=True) == [False, False]
    with LLM(
        "unillm/tiny", backend="transformers", structured_outputs_config=config
    ) as llm:
        quote = llm.get_tokenizer().encode('"', add_special_tokens=False)[-1]
        params = SamplingParams(
            **asked,
            logit_bias={quote: 50},  # as many properties as may be
            structured_outputs={"json": schema, "disable_any_whitespace": True},
        )
        [output] = llm.generate(text, params, use_tqdm=False)

    found = json.loads(output.outputs[0].text)
    assert found.keys() == {"b"}
    assert found["b"].keys() <= {"properties"}


def test_the_view_of_the_engine_has_the_argument_of_prefix_caching():
    with LLM("unillm/tiny", backend="transformers") as llm:
        view = llm.llm_engine.vllm_config.cache_config
        assert view.enable_prefix_caching is None
        with pytest.raises(AttributeError, match=r"cache_config has no.*block_size"):
            _ = view.block_size
