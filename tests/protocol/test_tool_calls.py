# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unillm import SamplingParams
from unillm.errors import InvalidParameterError, UnsupportedParameterError
from unillm.protocol.bodies import ChatBody
from unillm.protocol.reasoning import ThinkReader
from unillm.protocol.sampling import chat_params
from unillm.protocol.tool_calls import call_reader, check_tools, forced_call

WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city"],
}


def body(**fields):
    tools = [
        {"type": "function", "function": {"name": name, "parameters": WEATHER}}
        for name in ("weather", "climate")
    ]
    given = {"messages": [{"role": "user", "content": "?"}], "tools": tools, **fields}
    return msgspec.convert(given, ChatBody)


def parts_of(reader, pieces):
    """Return content, reasoning and calls, as (name, arguments), of a whole stream."""
    read = [reader.push(piece) for piece in pieces] + [reader.finish()]
    calls = {}
    for part in (part for parts in read for part in parts.tool_calls):
        if part.index not in calls:
            assert part.id
            assert part.type == "function"
            calls[part.index] = [part.function.name, ""]
        else:
            assert part.id is msgspec.UNSET
            assert part.function.name is msgspec.UNSET
        calls[part.index][1] += part.function.arguments
    assert list(calls) == list(range(len(calls)))
    content = "".join(parts.content for parts in read)
    reasoning = "".join(parts.reasoning for parts in read)
    return content, reasoning, [tuple(call) for call in calls.values()]


def read(parser, text, *, step=None, **fields):
    step = step or len(text) or 1
    pieces = [text[i : i + step] for i in range(0, len(text), step)]
    content, _, calls = parts_of(call_reader(body(**fields), parser=parser), pieces)
    return content, calls


PARIS = ("weather", '{"city": "Paris"}')
ROME = ("climate", '{"city": "Rome", "days": 3}')

CASES = {
    "hermes one": (
        "hermes",
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>',
        ("", [PARIS]),
    ),
    "hermes two after text": (
        "hermes",
        (
            'Let me see.\n<tool_call>{"name": "weather", "arguments": {"city": "Paris"}}'
            '</tool_call>\n<tool_call>\n{"arguments": {"city": "Rome", "days": 3}, '
            '"name": "climate"}</tool_call>\n'
        ),
        ("Let me see.\n", [PARIS, ROME]),
    ),
    "hermes text behind a call": (
        "hermes",
        (
            '<tool_call>{"name": "weather", "arguments": {"city": "Paris"}}</tool_call>\n'
            "Done. "
        ),
        ("\nDone.", [PARIS]),
    ),
    "hermes without a closing mark": (
        "hermes",
        '<tool_call>{"name": "weather", "arguments": {"city": "Paris"}}',
        ("", [PARIS]),
    ),
    "hermes cut in the arguments": (
        "hermes",
        '<tool_call>{"name": "weather", "arguments": {"city": "Pa',
        ("", [("weather", '{"city": "Pa')]),
    ),
    "hermes cut in the name": (
        "hermes",
        'So: <tool_call>{"name": "wea',
        ('So: <tool_call>{"name": "wea', []),
    ),
    "hermes cut in the mark": ("hermes", "a < b <tool_", ("a < b <tool_", [])),
    "hermes no object": (
        "hermes",
        "<tool_call>weather</tool_call>",
        ("<tool_call>weather</tool_call>", []),
    ),
    "hermes arguments as text": (
        "hermes",
        (
            '<tool_call>{"name": "weather", "arguments": "{\\"city\\": \\"Paris\\"}"}'
            "</tool_call>"
        ),
        ("", [PARIS]),
    ),
    "hermes without arguments": (
        "hermes",
        '<tool_call>{"name": "weather"}</tool_call>',
        ("", [("weather", "{}")]),
    ),
    "hermes marks inside a text": (
        "hermes",
        (
            '<tool_call>{"name": "weather", "arguments": {"city": "}</tool_call>\\"{"}}'
            "</tool_call>"
        ),
        ("", [("weather", '{"city": "}</tool_call>\\"{"}')]),
    ),
    "llama one": (
        "llama3_json",
        '{"name": "weather", "parameters": {"city": "Paris"}}',
        ("", [PARIS]),
    ),
    "llama two": (
        "llama3_json",
        (
            '\n<|python_tag|>{"name": "weather", "parameters": {"city": "Paris"}}; '
            '{"name": "climate", "parameters": {"city": "Rome", "days": 3}}'
        ),
        ("\n", [PARIS, ROME]),
    ),
    "llama another object": (
        "llama3_json",
        '{"name": "Ada", "parameters": {"age": 36}}',
        ('{"name": "Ada", "parameters": {"age": 36}}', []),
    ),
    "llama an object without arguments": (
        "llama3_json",
        ' {"name": "weather", "age": 36} ',
        (' {"name": "weather", "age": 36} ', []),
    ),
    "llama text": ("llama3_json", "It is {sunny}.", ("It is {sunny}.", [])),
    "mistral array": (
        "mistral",
        (
            '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Paris"}}, '
            '{"name": "climate", "arguments": {"city": "Rome", "days": 3}}]'
        ),
        ("", [PARIS, ROME]),
    ),
    "mistral name": (
        "mistral",
        (
            'Well: [TOOL_CALLS]weather{"city": "Paris"}[TOOL_CALLS]climate[ARGS]'
            '{"city": "Rome", "days": 3}'
        ),
        ("Well: ", [PARIS, ROME]),
    ),
    "mistral cut in the name": (
        "mistral",
        "[TOOL_CALLS]weat",
        ("[TOOL_CALLS]weat", []),
    ),
    "mistral no call": (
        "mistral",
        "[TOOL_CALLS] are very {great}",
        ("[TOOL_CALLS] are very {great}", []),
    ),
}


@pytest.mark.parametrize("step", [1, 2, 7, None])
@pytest.mark.parametrize("case", CASES)
def test_each_form_of_a_call_is_read_whole_and_in_parts(case, step):
    parser, text, expected = CASES[case]

    assert read(parser, text, step=step) == expected


@pytest.mark.property
@given(st.data())
def test_how_a_stream_is_cut_changes_nothing(data):
    parser = data.draw(st.sampled_from(["hermes", "llama3_json", "mistral"]))
    piece = st.sampled_from(
        [
            *(
                "<tool_call>",
                "</tool_call>",
                "<|python_tag|>",
                "[TOOL_CALLS]",
                "[ARGS]",
            ),
            *(
                '{"name": "weather", "arguments": ',
                '"parameters": ',
                '{"city": "Paris"}',
            ),
            *("}", "{", "]", "[", '"', "\\", ";", ",", " ", "\n", "weather", "x", "<"),
        ]
    )
    text = "".join(data.draw(st.lists(piece, max_size=12)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[i:j] for i, j in zip([0, *cuts], [*cuts, len(text)], strict=True)]

    whole = parts_of(call_reader(body(), parser=parser), [text])

    assert parts_of(call_reader(body(), parser=parser), pieces) == whole


def test_arguments_stream_before_the_call_ends():
    reader = call_reader(body(), parser="hermes")

    reader.push('<tool_call>{"name": "weather", "arguments": {"city": ')
    more = reader.push('"Paris')

    assert [part.function.arguments for part in more.tool_calls] == ['"Paris']


def test_without_parallel_calls_only_the_first_counts():
    parser, text, (content, calls) = CASES["hermes two after text"]

    assert read(parser, text, parallel_tool_calls=False) == (content, calls[:1])


def test_an_id_is_new_for_each_call_and_mistrals_has_nine_characters():
    _, text, _ = CASES["mistral array"]
    parts = call_reader(body(), parser="mistral").push(text).tool_calls
    ids = [part.id for part in parts if part.id is not msgspec.UNSET]
    given = call_reader(body(), parser="mistral").push(
        "[TOOL_CALLS]weather[CALL_ID]abcdefgh9[ARGS]{}"
    )

    assert [len(each) for each in ids] == [9, 9]
    assert len(set(ids)) == 2
    assert given.tool_calls[0].id == "abcdefgh9"


# ------------------------------------------------------------------------ tool_choice


def test_required_calls_are_an_array_that_the_schema_allows():
    jsonschema = pytest.importorskip("jsonschema")
    required = body(tool_choice="required")
    schema = json.loads(forced_call(required).json)
    text = '[{"name": "weather", "parameters": {"city": "Paris"}}]'

    jsonschema.validate(json.loads(text), schema)
    for wrong in ("[]", text.replace("weather", "wether"), text.replace("city", "x")):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(json.loads(wrong), schema)
    assert read(None, text, step=3, tool_choice="required") == ("", [PARIS])


def test_a_named_tools_answer_is_its_arguments():
    named = {"type": "function", "function": {"name": "weather"}}

    assert json.loads(forced_call(body(tool_choice=named)).json) == WEATHER
    assert read(None, PARIS[1], step=4, tool_choice=named) == ("", [PARIS])


def test_definitions_of_several_tools_are_joined_unless_they_differ():
    def tool(name, kind):
        parameters = {
            "type": "object",
            "properties": {"x": {"$ref": "#/$defs/X"}},
            "$defs": {"X": {"type": kind}},
        }
        return {
            "type": "function",
            "function": {"name": name, "parameters": parameters},
        }

    same = body(
        tools=[tool("a", "string"), tool("b", "string")], tool_choice="required"
    )
    schema = json.loads(forced_call(same).json)
    assert schema["$defs"] == {"X": {"type": "string"}}
    other = body(tools=[tool("a", "string"), tool("b", "null")], tool_choice="required")
    with pytest.raises(InvalidParameterError, match="\\$defs/X differently"):
        forced_call(other)


def test_a_forced_call_excludes_another_form_of_answer():
    asked = body(tool_choice="required", response_format={"type": "json_object"})

    with pytest.raises(InvalidParameterError, match="Send one of them"):
        chat_params(asked, SamplingParams())


@pytest.mark.parametrize(
    ("fields", "error", "parameter"),
    [
        ({}, UnsupportedParameterError, "tools"),
        ({"tool_choice": "auto"}, UnsupportedParameterError, "tools"),
        (
            {"tool_choice": {"type": "function", "function": {"name": "other"}}},
            InvalidParameterError,
            "tool_choice",
        ),
        (
            {"tools": None, "tool_choice": "required"},
            InvalidParameterError,
            "tool_choice",
        ),
    ],
)
def test_a_choice_that_nothing_could_answer_is_refused(fields, error, parameter):
    with pytest.raises(error) as caught:
        check_tools(body(**fields), parser=None)

    assert caught.value.parameter == parameter


def test_marks_of_calls_stay_in_the_text_where_the_model_chooses():
    assert not chat_params(body(), SamplingParams()).skip_special_tokens
    assert chat_params(body(tool_choice="none"), SamplingParams()).skip_special_tokens
    explicit = body(skip_special_tokens=True)
    assert chat_params(explicit, SamplingParams()).skip_special_tokens


# -------------------------------------------------------------------------- reasoning


@pytest.mark.parametrize("step", [1, 3, None])
@pytest.mark.parametrize(
    ("prompt", "text", "expected"),
    [
        ("assistant\n", "<think>\nHm.\n</think>\n\n42", ("\n\n42", "\nHm.\n")),
        ("assistant\n<think>\n", "Hm.\n</think>\n\n42", ("\n\n42", "Hm.\n")),
        ("assistant\n<think>\n", "Hm, and cut </thi", ("", "Hm, and cut </thi")),
        ("<think>\n\n</think>\n\n", "42 <think>", ("42 <think>", "")),
        ("assistant\n", "42", ("42", "")),
        ("assistant\n", " <thin", (" <thin", "")),
        ("assistant\n", "", ("", "")),
    ],
)
def test_reasoning_is_split_off_where_the_prompt_or_the_answer_opens_it(
    prompt, text, expected, step
):
    step = step or len(text) or 1
    pieces = [text[i : i + step] for i in range(0, len(text), step)]
    content, reasoning, _ = parts_of(ThinkReader(prompt), pieces)

    assert (content, reasoning) == expected
