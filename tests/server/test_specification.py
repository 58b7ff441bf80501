# SPDX-License-Identifier: Apache-2.0

"""Bodies, chunks and errors are valid by OpenAI's specification."""

from __future__ import annotations

import json

import pytest
from openai_spec import check
from server_process import events

PROMPT = "Count from 3 to 9:"
CHAT = [{"role": "user", "content": PROMPT}]
GREEDY = {"temperature": 0, "max_tokens": 30}
CHATS = {
    "plain": {},
    "logprobs": {"logprobs": True, "top_logprobs": 3},
    "several": {"n": 3, "temperature": 1.0, "seed": 1},
    "a stop string": {"stop": ["5"]},
    "a stop token": {"stop_token_ids": [20]},
    "length": {"max_tokens": 2},
    "JSON": {"response_format": {"type": "json_object"}},
    "token ids": {"return_token_ids": True},
}
COMPLETIONS = {
    "plain": {},
    "logprobs": {"logprobs": 3},
    "several": {"n": 2, "temperature": 1.0},
    "several prompts": {"prompt": [PROMPT, "Spell the word cat:"]},
    "token ids": {"prompt": [10, 11, 12], "return_token_ids": True},
    "echo": {"echo": True},
    "length": {"max_tokens": 2},
}


@pytest.mark.parametrize("fields", CHATS.values(), ids=CHATS)
def test_the_body_of_a_chat_is_valid(server, fields):
    answer = server.post("/v1/chat/completions", messages=CHAT, **(GREEDY | fields))

    assert answer.status_code == 200
    check(answer.json(), "CreateChatCompletionResponse")


@pytest.mark.parametrize("fields", CHATS.values(), ids=CHATS)
def test_each_chunk_of_a_chat_is_valid(server, fields):
    body = {"messages": CHAT, **GREEDY, **fields, "stream": True}
    body["stream_options"] = {"include_usage": True}
    with server.client.stream("POST", "/v1/chat/completions", json=body) as answer:
        *chunks, done = events(answer)

    assert done == "[DONE]"
    for chunk in chunks:
        check(json.loads(chunk), "CreateChatCompletionStreamResponse")


@pytest.mark.parametrize("fields", COMPLETIONS.values(), ids=COMPLETIONS)
def test_the_body_of_a_completion_is_valid(server, fields):
    body = {"prompt": PROMPT, **GREEDY, **fields}
    answer = server.post("/v1/completions", **body)

    assert answer.status_code == 200
    check(answer.json(), "CreateCompletionResponse")


def test_the_list_of_models_is_valid(server):
    check(server.client.get("/v1/models").json(), "ListModelsResponse")


ERRORS = {
    "a body that is not JSON": ("/v1/completions", b"{", 400),
    "no object": ("/v1/completions", b"[]", 400),
    "a wrong type": ("/v1/chat/completions", b'{"messages": 3}', 400),
    "an unknown model": ("/v1/completions", b'{"model": "x", "prompt": "a"}', 404),
    "an unknown path": ("/v1/nothing", b"{}", 404),
}


@pytest.mark.parametrize(("path", "raw", "status"), ERRORS.values(), ids=ERRORS)
def test_an_error_is_valid(server, path, raw, status):
    answer = server.client.post(
        path, content=raw, headers={"content-type": "application/json"}
    )

    assert answer.status_code == status
    check(answer.json(), "ErrorResponse")
