# SPDX-License-Identifier: Apache-2.0

"""A pydantic class as a structured output: which keys its objects have."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal, Optional, Union

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unillm import StructuredOutputs
from unillm.errors import InvalidParameterError
from unillm.model.find import find_model
from unillm.structured_outputs import closed
from unillm.text.grammar import GrammarCompiler
from unillm.text.loading import load_tokenizer

pydantic = pytest.importorskip("pydantic")
pytest.importorskip("llguidance")


class Inner(pydantic.BaseModel):
    b: int


class Open(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    b: int


class Named(pydantic.BaseModel):
    properties: int  # a keyword of JSON schema, as a name
    default: int


class Cat(pydantic.BaseModel):
    kind: Literal["cat"]


class Dog(pydantic.BaseModel):
    kind: Literal["dog"]


class Answer(pydantic.BaseModel):
    inner: Inner
    inners: list[Inner] = []
    by_name: dict[str, Inner] = {}
    free: dict[str, int] = {}
    anything: dict[str, Any] = {}
    open: Optional[Open] = None  # noqa: UP045 - pydantic reads it on every Python
    named: Optional[Named] = None  # noqa: UP045
    pet: Union[Cat, Dog, None] = None  # noqa: UP007


@pytest.fixture(scope="module")
def matches():
    """Whether a value, as JSON, is an answer."""
    tokenizer = load_tokenizer(find_model("unillm/tiny"))
    compiler = GrammarCompiler(
        tokenizer, vocab_size=tokenizer.vocab_size, eos_ids=[506]
    )
    grammar = compiler.compile(StructuredOutputs(json=Answer))

    def matches(**value):
        state = grammar.start()
        text = json.dumps({"inner": {"b": 1}, **value})
        for token_id in [*tokenizer.encode(text, add_special_tokens=False), 506]:
            if not state.allowed()[token_id // 8] >> token_id % 8 & 1:
                return False
            state.accept(token_id)
        return True

    return matches


@pytest.mark.parametrize(
    ("value", "fits"),
    [
        ({}, True),
        ({"extra": 1}, False),
        ({"inner": {"b": 1, "extra": 1}}, False),
        ({"inners": [{"b": 1}]}, True),
        ({"inners": [{"b": 1, "extra": 1}]}, False),
        ({"by_name": {"any": {"b": 1}}}, True),
        ({"by_name": {"any": {"b": 1, "extra": 1}}}, False),
        ({"free": {"any": 1, "other": 2}}, True),
        ({"anything": {"any": {"deep": [1]}}}, True),
        ({"open": {"b": 1, "extra": 1}}, True),
        ({"named": {"properties": 1, "default": 2}}, True),
        ({"named": {"properties": 1, "default": 2, "extra": 1}}, False),
        ({"pet": {"kind": "dog"}}, True),
        ({"pet": {"kind": "dog", "extra": 1}}, False),
    ],
)
def test_objects_of_a_class_have_no_keys_but_its_fields(matches, value, fits):
    assert matches(**value) is fits


@pytest.mark.parametrize("schema", [Inner.model_json_schema(), '{"properties": {}}'])
def test_a_schema_means_what_it_says(schema):
    structure = StructuredOutputs(json=schema)

    assert "additionalProperties" not in structure.json


@pytest.mark.parametrize("beside", [{}, {"properties": {"c": {}}}])
def test_an_all_of_and_its_parts_stay_open(beside):
    schema = {"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}], **beside}

    assert closed(schema) == schema


def test_a_class_without_a_schema_is_refused():
    class Calls(pydantic.BaseModel):
        call: Callable[[int], int]

    with pytest.raises(InvalidParameterError, match="CallableSchema"):
        StructuredOutputs(json=Calls)


@given(
    st.recursive(
        st.none() | st.booleans(),
        lambda x: (
            st.lists(x)
            | st.dictionaries(st.sampled_from(["properties", "a", "const", "allOf"]), x)
        ),
    )
)
def test_a_closed_schema_stays_closed(schema):
    once = closed(schema)

    assert closed(once) == once
