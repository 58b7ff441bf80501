# SPDX-License-Identifier: Apache-2.0

"""The client of OpenAI against a server of the bundled model."""

from __future__ import annotations

import openai
import pytest

PROMPT = "Count from 3 to 9:"
ANSWER = "3 4 5 6 7 8 9"


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="x") as client:
        yield client


def test_the_model_is_listed(client):
    models = client.models.list().data

    assert [model.id for model in models] == ["unillm/tiny"]
    assert client.models.retrieve("unillm/tiny").owned_by == "unillm"


def test_a_completion_has_text_reason_and_usage(client):
    answer = client.completions.create(
        model="unillm/tiny", prompt=PROMPT, temperature=0
    )

    assert answer.choices[0].text == ANSWER
    assert answer.choices[0].finish_reason == "stop"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (11, 14)


def test_a_chat_has_a_message(client):
    answer = client.chat.completions.create(
        model="unillm/tiny",
        messages=[{"role": "user", "content": PROMPT}],
        temperature=0,
    )

    assert answer.choices[0].message.content == ANSWER
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop"


def test_a_stream_adds_up_to_the_answer_and_ends_with_its_usage(client):
    chunks = list(
        client.chat.completions.create(
            model="unillm/tiny",
            messages=[{"role": "user", "content": PROMPT}],
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )

    deltas = [chunk.choices[0] for chunk in chunks[:-1]]
    assert "".join(each.delta.content or "" for each in deltas) == ANSWER
    assert [each.finish_reason for each in deltas if each.finish_reason] == ["stop"]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 14


def test_an_unknown_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.completions.create(model="other", prompt=PROMPT)

    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"


def test_a_prompt_over_the_context_has_openais_code(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="unillm/tiny", prompt="word " * 3000)

    assert caught.value.code == "context_length_exceeded"
