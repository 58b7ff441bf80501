# SPDX-License-Identifier: Apache-2.0

"""Conversations become the prompts of real vLLM, whatever form a template reads."""

from __future__ import annotations

import copy

import pytest
from openai.types.chat import ChatCompletionMessage

from unillm import Generator
from unillm.backend import find_model

EACH = "{% for message in messages %}<{{ message.role }}>"
CALLS = (
    "{% if message.tool_calls is defined %}{% for call in message.tool_calls %}"
    "[{{ call.function.name }} {{ call.function.arguments | tojson }}"
    "{% for key in call.function.arguments %} {{ key }}{% endfor %}]"
    "{% endfor %}{% endif %}"
)
TEMPLATES = {
    "texts": EACH + "{{ message.content }}" + CALLS + "{% endfor %}",
    "parts": EACH
    + "{% for part in message.content %}({{ part.text or part }}){% endfor %}"
    + CALLS
    + "{% endfor %}",
    "both": EACH + "{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}({{ part.text }}){% endfor %}{% endif %}"
    + CALLS
    + "{% endfor %}",
    "macro": "{% macro show(body) %}{% for part in body %}({{ part.text or part }})"
    "{% endfor %}{% endmacro %}" + EACH + "{{ show(message.content) }}{% endfor %}",
    "filter": EACH
    + "{% for part in message.content | selectattr('type', 'equalto', 'text') %}"
    "({{ part.text }}){% endfor %}{% endfor %}",
    "developers": EACH
    + "{{ message.content }}{% endfor %}{% if false %}'developer'{% endif %}",
    "whole messages": "{{ messages | tojson }}",
}

TOOL_CALL = {"id": "call_1", "type": "function"}


def dumped(**fields):
    """Return a message as OpenAI's client gives it."""
    return ChatCompletionMessage.model_validate(
        {"role": "assistant", "content": None, **fields}
    ).model_dump()


def tool_calls(*arguments):
    return [
        {**TOOL_CALL, "function": {"name": "add", "arguments": each}}
        for each in arguments
    ]


USER = {"role": "user", "content": "Add 17 and 25:"}
CONVERSATIONS = {
    "text": [USER],
    "parts": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Add"},
                {"type": "text", "text": ""},
                "17",
                {"type": "input_text", "text": "25"},
            ],
        }
    ],
    "answer": [USER, dumped(content="42"), USER],
    "refusal": [
        USER,
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
    ],
    "tool calls": [
        USER,
        dumped(tool_calls=tool_calls('{"a": 17, "b": 25}', "{}", "", "{", "[1]")),
        {"role": "tool", "tool_call_id": "call_1", "content": "42"},
        {
            "role": "tool",
            "tool_call_id": "call_1",
            "content": [{"type": "text", "text": "4"}, {"type": "text", "text": "2"}],
        },
    ],
    "no tool calls": [USER, {**dumped(content="42"), "tool_calls": []}, USER],
    "nothing": [USER, {"role": "assistant", "content": None}, USER],
    "developer": [{"role": "developer", "content": "be brief"}, USER],
    "developer behind system": [
        {"role": "system", "content": "be kind"},
        {"role": "developer", "content": "be brief"},
        USER,
    ],
}


@pytest.fixture(scope="module")
def vllm_prompt():
    """Return vLLM's prompt of a conversation."""
    from vllm.config import ModelConfig
    from vllm.renderers.chat_utils import parse_chat_messages
    from vllm.renderers.hf import (
        resolve_chat_template_content_format,
        safe_apply_chat_template,
    )
    from vllm.tokenizers import cached_tokenizer_from_config

    config = ModelConfig(model=str(find_model("unillm/tiny")), dtype="float32")
    tokenizer = cached_tokenizer_from_config(config)

    def render(messages, template, given_format):
        content_format = resolve_chat_template_content_format(
            template, None, given_format, tokenizer, model_config=config
        )
        conversation, _, _ = parse_chat_messages(messages, config, content_format)
        return safe_apply_chat_template(
            config,
            tokenizer,
            conversation,
            chat_template=template,
            tokenize=False,
            add_generation_prompt=True,
        )

    return render


@pytest.fixture(scope="module")
def embedded():
    with Generator("unillm/tiny", backend="transformers") as generator:
        yield generator


CASES = [
    (conversation, template, content_format)
    for conversation in CONVERSATIONS
    for template in TEMPLATES
    for content_format in ("auto", "string", "openai")
    # vLLM gives a text to a template of parts that shows no developers.
    if conversation != "developer behind system"
    or (template in ("texts", "developers") and content_format != "openai")
]


@pytest.mark.parametrize(("conversation", "template", "content_format"), CASES)
def test_a_conversation_becomes_the_prompt_of_vllm(
    embedded, vllm_prompt, conversation, template, content_format
):
    messages = CONVERSATIONS[conversation]
    before = copy.deepcopy(messages)
    [output] = embedded.chat(
        messages,
        chat_template=TEMPLATES[template],
        chat_template_content_format=content_format,
    )

    theirs = vllm_prompt(copy.deepcopy(messages), TEMPLATES[template], content_format)

    assert output.prompt == theirs
    assert messages == before
