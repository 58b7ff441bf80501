# SPDX-License-Identifier: Apache-2.0

"""Calls that a request demands, from the bundled model, by the client of OpenAI."""

from __future__ import annotations

import json

import openai
import pytest

MESSAGES = [{"role": "user", "content": "Count from 3 to 9:"}]
SIGN = {
    "type": "object",
    "properties": {"of": {"enum": ["plus", "minus"]}},
    "required": ["of"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": SIGN}}
    for name in ("sign", "other")
]
NAMED = {"type": "function", "function": {"name": "sign"}}


@pytest.fixture(scope="module")
def ask(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="x") as client:

        def ask(**fields):
            return client.chat.completions.create(
                model="unillm/tiny",
                messages=MESSAGES,
                tools=TOOLS,
                temperature=0,
                max_tokens=80,
                **fields,
            )

        yield ask


@pytest.mark.parametrize("choice", ["required", NAMED], ids=["required", "named"])
def test_a_demanded_call_has_the_form_of_its_tool(ask, choice):
    answer = ask(tool_choice=choice, parallel_tool_calls=False).choices[0]

    [call] = answer.message.tool_calls
    assert call.function.name in {"sign", "other"}
    assert json.loads(call.function.arguments)["of"] in {"plus", "minus"}
    assert answer.message.content is None
    assert answer.finish_reason == "tool_calls"


@pytest.mark.parametrize("choice", ["required", NAMED], ids=["required", "named"])
def test_a_stream_of_a_call_adds_up_to_the_whole(ask, choice):
    asked = {"tool_choice": choice, "parallel_tool_calls": False}
    [whole] = ask(**asked).choices[0].message.tool_calls

    name, arguments, reasons = "", "", []
    for chunk in ask(**asked, stream=True):
        [choice] = chunk.choices
        reasons.append(choice.finish_reason)
        for part in choice.delta.tool_calls or ():
            assert part.index == 0
            name += part.function.name or ""
            arguments += part.function.arguments or ""

    assert (name, arguments) == (whole.function.name, whole.function.arguments)
    assert reasons[-1] == "tool_calls"


def test_a_free_choice_needs_a_parser(ask):
    with pytest.raises(openai.BadRequestError, match="--tool-call-parser") as caught:
        ask()
    assert caught.value.param == "tools"


def test_a_call_may_be_forbidden(ask):
    message = ask(tool_choice="none").choices[0].message

    assert message.tool_calls is None
    assert message.content == "3 4 5 6 7 8 9"
