# SPDX-License-Identifier: Apache-2.0

"""``/v1/responses``, by OpenAI's client and specification."""

from __future__ import annotations

import json

import openai
import pytest
from openai_spec import check
from server_process import events

PROMPT = "Count from 3 to 9:"
ANSWER = "3 4 5 6 7 8 9"
BODY = {"input": PROMPT, "temperature": 0, "max_output_tokens": 40}
FIELDS = {
    "plain": {},
    "items": {"input": [{"role": "user", "content": PROMPT}]},
    "parts": {
        "input": [{"role": "user", "content": [{"type": "input_text", "text": PROMPT}]}]
    },
    "logprobs": {"include": ["message.output_text.logprobs"], "top_logprobs": 2},
    "length": {"max_output_tokens": 3},
    "a schema": {
        "text": {
            "format": {
                "type": "json_schema",
                "name": "x",
                "schema": {"enum": ["yes", "no"]},
            }
        }
    },
}


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="x") as client:
        yield client


def streamed(server, **body):
    body = {**BODY, **body, "stream": True}
    with server.client.stream("POST", "/v1/responses", json=body) as answer:
        assert answer.status_code == 200, answer.read()
        return [json.loads(event) for event in events(answer)]


def test_the_client_reads_the_text(client):
    answer = client.responses.create(model="unillm/tiny", **BODY)

    assert answer.output_text == ANSWER
    assert answer.status == "completed"
    assert answer.usage.output_tokens == 14
    assert answer.store is False


def test_the_client_reads_a_stream(client):
    found = list(client.responses.create(model="unillm/tiny", **BODY, stream=True))

    deltas = [e.delta for e in found if e.type == "response.output_text.delta"]
    assert "".join(deltas) == found[-1].response.output_text == ANSWER
    assert found[0].type == "response.created"
    assert found[-1].type == "response.completed"


@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
def test_body_and_events_are_valid_and_say_the_same(server, fields):
    answer = server.post("/v1/responses", **BODY | fields).json()

    found = streamed(server, **fields)

    check(answer, "Response")
    for event in found:
        check(event, "ResponseStreamEvent")
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    last = found[-1]["response"]
    assert [item["content"] for item in last["output"]] == [
        item["content"] for item in answer["output"]
    ]
    assert last["status"] == answer["status"]
    assert last["usage"] == answer["usage"]


def test_a_cut_answer_is_incomplete(server):
    answer = server.post("/v1/responses", **BODY | {"max_output_tokens": 3}).json()

    assert answer["status"] == "incomplete"
    assert answer["incomplete_details"] == {"reason": "max_output_tokens"}


def test_instructions_are_the_system_message(server):
    developer = {"role": "developer", "content": "x"}
    items = {"input": [developer, {"role": "user", "content": PROMPT}]}
    as_item = server.post("/v1/responses", **BODY | items).json()
    as_field = server.post("/v1/responses", **BODY, instructions="x").json()

    assert as_field["usage"]["input_tokens"] == as_item["usage"]["input_tokens"]
    assert as_field["usage"]["input_tokens"] > 20


REFUSED = {
    "previous_response_id": "resp_1",
    "conversation": "conv_1",
    "background": True,
    "prompt": {"id": "x"},
    "tools": [{"type": "function", "name": "f", "parameters": {}}],
    "input": [{"type": "input_image"}],
    "truncation": "auto",
}


@pytest.mark.parametrize(("name", "value"), REFUSED.items(), ids=REFUSED)
def test_state_and_what_is_not_text_is_refused_by_name(server, name, value):
    answer = server.post("/v1/responses", **BODY | {name: value})

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == name


def test_a_failed_stream_is_a_failed_response(server):
    found = streamed(server, max_output_tokens=900, ignore_eos=True, timeout_s=0.05)

    assert found[-1]["type"] == "response.failed"
    assert found[-1]["response"]["status"] == "failed"
    check(found[-1], "ResponseStreamEvent")
