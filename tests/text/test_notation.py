# SPDX-License-Identifier: Apache-2.0

"""Structures as llguidance reads them: schemas with ``oneOf``, options and refusals."""

from __future__ import annotations

import json

import jsonschema
import pytest
from text.byte_grammar import byte_compiler, matches

from unillm import StructuredOutputs
from unillm.errors import InvalidParameterError
from unillm.text.notation import StructureNotation, structure_notation


@pytest.fixture(scope="module")
def compiler():
    return byte_compiler()


VALUES = [0, 1, 2, True, False, None, "a", "b", "1", [1], [2], {"k": 1}, {"k": 2}]
ONE_OF = {
    "values": {"oneOf": [{"const": "a"}, {"const": "b"}]},
    "a value twice": {"oneOf": [{"const": "a"}, {"const": "b"}, {"const": "a"}]},
    "lists with a common value": {"oneOf": [{"enum": ["a", "b"]}, {"enum": ["b", 1]}]},
    "a list with a value twice": {"oneOf": [{"enum": ["a", "a"]}, {"const": 1}]},
    "1, 1.0 and true": {"oneOf": [{"const": 1}, {"const": 1.0}, {"const": True}]},
    "arrays and objects": {
        "oneOf": [{"enum": [[1], {"k": 1}]}, {"enum": [[1.0], {"k": 2}]}]
    },
    "described": {
        "oneOf": [{"const": "a", "title": "A"}, {"const": 2, "description": "two"}]
    },
    "beside other keywords": {
        "type": "string",
        "oneOf": [{"enum": ["a", 1]}, {"enum": ["b", 1]}],
    },
    "of a reference": {
        "$defs": {"x": {"oneOf": [{"const": 1}, {"enum": [2, 1]}]}},
        "$ref": "#/$defs/x",
    },
    "in an array": {
        "type": "array",
        "items": {"oneOf": [{"const": 1}, {"enum": [1, 2]}]},
        "minItems": 1,
        "maxItems": 1,
    },
    "of types": {"oneOf": [{"type": "null"}, {"type": "boolean"}]},
}


@pytest.mark.parametrize("schema", ONE_OF.values(), ids=ONE_OF)
def test_one_of_allows_what_fits_one_branch_alone(compiler, schema):
    validator = jsonschema.Draft202012Validator(schema)

    allowed = [
        value
        for value in VALUES
        if matches(compiler, json.dumps(value), json=schema, whitespace_pattern=" ?")
    ]

    assert json.dumps(allowed) == json.dumps(
        [value for value in VALUES if validator.is_valid(value)]
    )
    assert allowed


def test_a_value_or_a_property_of_that_name_stays_as_it_is(compiler):
    overlapping = [{"const": 1}, {"const": 1}]
    schema = {
        "type": "object",
        "properties": {"oneOf": {"const": {"oneOf": overlapping}}},
        "required": ["oneOf"],
        "additionalProperties": False,
    }

    assert json.loads(structure_notation(StructuredOutputs(json=schema)).text) == schema
    assert matches(compiler, json.dumps({"oneOf": {"oneOf": overlapping}}), json=schema)


REFUSED = {
    "branches that may overlap": (
        {"oneOf": [{"type": "string"}, {"const": "a"}]},
        (
            "a oneOf whose branches are not seen to exclude each other, as values, types, "
            "and objects that require a property with another const do. Write anyOf"
        ),
    ),
    "not": (
        {"not": {"type": "string"}},
        'the keywords "not" of JSON Schema cannot be enforced',
    ),
    "if": (
        {"if": {"type": "string"}, "then": {"minLength": 2}},
        'the keywords "if", "then" of JSON Schema cannot be enforced',
    ),
    "uniqueItems": (
        {"type": "array", "uniqueItems": True},
        'the keywords "uniqueItems" of JSON Schema cannot be enforced',
    ),
    "format": ({"type": "string", "format": "foo"}, "Unknown format: foo"),
    "nothing left": ({"oneOf": [{"const": 1}, {"const": 1}]}, "Unsatisfiable schema"),
}


@pytest.mark.parametrize(("schema", "says"), REFUSED.values(), ids=REFUSED)
def test_a_schema_that_cannot_be_enforced_is_refused_in_our_words(
    compiler, schema, says
):
    with pytest.raises(InvalidParameterError) as caught:
        compiler.compile(StructuredOutputs(json=schema))

    assert says in str(caught.value)
    assert "coerce_one_of" not in str(caught.value)


def test_options_of_json_stand_beside_those_of_the_caller():
    schema = {"type": "null", "x-guidance": {"lenient": True}}

    wanted = StructuredOutputs(json=schema, whitespace_pattern=" ?")

    assert json.loads(structure_notation(wanted).text)["x-guidance"] == {
        "lenient": True,
        "whitespace_flexible": False,
        "item_separator": "(?: ?),(?: ?)",
        "key_separator": "(?: ?):(?: ?)",
    }


# ---------------------------------------------------------------------------- choices


def test_a_choice_is_one_token_of_the_lexer():
    wanted = StructuredOutputs(choice=["a", 'q"', "日本😀"])

    assert structure_notation(wanted) == StructureNotation(
        "lark", 'start: CHOICE\nCHOICE: "a" | "q\\"" | "日本😀"'
    )


@pytest.mark.parametrize("letters", [8, 100])
@pytest.mark.parametrize("shared", ["", "the option number "])
def test_ten_thousand_options_work(compiler, letters, shared):
    marks = ("日", "x", '"')
    options = [f"{shared}{n} {marks[n % 3] * letters}" for n in range(10_000)]

    assert matches(compiler, options[0], choice=options)
    assert matches(compiler, options[-1], choice=options)
    assert not matches(compiler, options[0] + "!", choice=options)
    assert not matches(compiler, options[0][:-1], choice=options)


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        ({"grammar": "start: {}"}, "option 4711."),
        ({"grammar": "root ::= {}"}, "option 4711."),
        ({"json": {"enum": [f"option {n}." for n in range(5_000)]}}, '"option 4711."'),
    ],
    ids=["lark", "gbnf", "enum"],
)
def test_five_thousand_alternatives_work(compiler, wanted, text):
    if "grammar" in wanted:
        options = " | ".join(f'"option {n}."' for n in range(5_000))
        wanted = {"grammar": wanted["grammar"].format(options)}

    assert matches(compiler, text, **wanted)
    assert not matches(compiler, text.replace("4711", "5000"), **wanted)


def test_each_of_many_requests_may_take_another_option(compiler, monkeypatch):
    """llguidance counts the states of its lexer over all requests with a grammar."""
    from unillm.text import grammar

    limits = {**grammar._LIMITS, "max_lexer_states": 2_000}
    monkeypatch.setattr(grammar, "_LIMITS", limits)
    options = [f"{number} {str(number * 7_919_993) * 4}" for number in range(400)]

    assert all(matches(compiler, option, choice=options) for option in options)
