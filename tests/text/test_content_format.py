# SPDX-License-Identifier: Apache-2.0

"""Templates that read contents as texts or as lists of parts: no message is lost."""

from __future__ import annotations

import pytest

from unillm.errors import ChatTemplateError
from unillm.text.content_format import detect_content_format
from unillm.text.tokenizer import RustTokenizer

EACH = "{% for message in messages %}"

LOOPS = {
    "key": EACH
    + "{% for p in message['content'] %}{{ p.text }}{% endfor %}{% endfor %}",
    "attribute": EACH
    + "{% for p in message.content %}{{ p['text'] }}{% endfor %}{% endfor %}",
    "filter": EACH
    + "{% for p in message.content | selectattr('type', 'equalto', 'text') %}"
    "{{ p.text }}{% endfor %}{% endfor %}",
    "slice": EACH
    + "{% for p in message.content[:9] %}{{ p.text }}{% endfor %}{% endfor %}",
    "condition": EACH
    + "{% for p in message.content if p.type == 'text' %}{{ p.text }}{% endfor %}"
    "{% endfor %}",
    "both forms": EACH
    + "{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for p in message.content %}{{ p.text }}{% endfor %}{% endif %}{% endfor %}",
    "other list": "{% set rest = messages[0:] %}{% set all = rest | list %}"
    "{% for m in all %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}",
    "variable": EACH + "{% set content = message.content %}"
    "{% for p in content %}{{ p.text }}{% endfor %}{% endfor %}",
    "macro": "{% macro show(body) %}{% for p in body %}{{ p.text }}{% endfor %}"
    "{% endmacro %}" + EACH + "{{ show(message.content) }}{% endfor %}",
    "macro by name": "{% macro show(role, body) %}{{ role }}"
    "{% for p in body %}{{ p.text }}{% endfor %}{% endmacro %}"
    + EACH
    + "{{ show('', body=message.content) }}{% endfor %}",
}
"""Templates with a loop over a content, as vLLM finds them."""

EFFECTS = {
    "index": EACH + "{{ message.content[0].text }}{% endfor %}",
    "index of a key": EACH + "{{ '> ' + message['content'][0]['text'] }}{% endfor %}",
    "last message": "{{ messages[-1]['content'][0]['text'] }}",
    "selectattr": EACH + "{{ message.content | selectattr('type', 'equalto', 'text') "
    "| map(attribute='text') | join }}{% endfor %}",
    "first": EACH + "{{ (message.content | first).text }}{% endfor %}",
    "other name": EACH
    + "{% set body = message.content %}{% for p in body %}{{ p.text }}{% endfor %}"
    "{% endfor %}",
    "namespace": EACH + "{% set ns = namespace(body=message.content) %}"
    "{% for p in ns.body %}{{ p.text }}{% endfor %}{% endfor %}",
}
"""Templates that read parts in a way that only their effect shows."""

TEXTS = {
    "key": EACH + "{{ message['content'] }}{% endfor %}",
    "attribute": EACH + "{{ message.content | trim }}{% endfor %}",
    "first letter": EACH
    + "{% if message.content[0] != ' ' %}{{ message.content }}{% endif %}{% endfor %}",
    "loop over words": EACH
    + "{% for w in message.content.split('|') %}{{ w }}{% endfor %}{% endfor %}",
    "loop over tools": "{% for t in tools or [] %}{{ t }}{% endfor %}"
    + EACH
    + "{{ message.content }}{% endfor %}",
    "macro of another value": "{% macro show(body) %}{% for p in body %}{{ p }}"
    "{% endfor %}{% endmacro %}" + EACH + "{{ show([message.content]) }}{% endfor %}",
    "generation": EACH + "{% generation %}{{ message.content }}{% endgeneration %}"
    "{% if loop.last %}{% break %}{% endif %}{% endfor %}",
}


@pytest.fixture(scope="module")
def tokenizer(families):
    return RustTokenizer(families["gpt2"].wrapped)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        *((template, "openai") for template in (LOOPS | EFFECTS).values()),
        *((template, "string") for template in TEXTS.values()),
    ],
    ids=[*LOOPS, *EFFECTS, *TEXTS],
)
def test_a_template_gets_the_form_that_it_reads(tokenizer, template, expected):
    def render(conversation):
        return tokenizer._render(conversation, chat_template=template)

    assert detect_content_format(template, render) == expected
    for content in ("so be it", [{"type": "text", "text": "so be it"}]):
        messages = [{"role": "user", "content": content}]
        text = tokenizer.apply_chat_template(messages, chat_template=template)
        assert text.removeprefix("> ") == "so be it"


@pytest.mark.parametrize(
    "template", ["{{ raise_exception('no') }}", "{{ messages[1].content }}", "{{ 1 }}"]
)
def test_a_template_that_shows_neither_form_gets_texts(tokenizer, template):
    def render(conversation):
        return tokenizer._render(conversation, chat_template=template)

    assert detect_content_format(template, render) == "string"


def test_the_error_of_a_broken_template_is_that_of_its_rendering(tokenizer):
    with pytest.raises(ChatTemplateError, match="TemplateSyntaxError"):
        tokenizer.apply_chat_template(
            [{"role": "user", "content": "a"}], chat_template="{% for %}"
        )


@pytest.mark.parametrize(
    ("content_format", "expected"),
    [("string", "a\nb"), ("openai", "ab"), ("auto", "ab")],
)
def test_a_caller_may_choose_the_form(tokenizer, content_format, expected):
    content = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]

    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}],
        chat_template=LOOPS["both forms"],
        chat_template_content_format=content_format,
    )

    assert text == expected


def test_the_form_of_a_template_is_detected_once(tokenizer, monkeypatch):
    template = EFFECTS["index"]
    messages = [{"role": "user", "content": "a"}]
    tokenizer.apply_chat_template(messages, chat_template=template)
    calls = []
    render = tokenizer._render
    monkeypatch.setattr(
        tokenizer, "_render", lambda *a, **k: calls.append(a) or render(*a, **k)
    )

    tokenizer.apply_chat_template(messages, chat_template=template)

    assert len(calls) == 1


def test_the_last_message_is_continued_in_either_form(tokenizer):
    messages = [{"role": "user", "content": "so be "}]
    for template in (LOOPS["key"], EFFECTS["index"], TEXTS["key"]):
        text = tokenizer.apply_chat_template(
            messages,
            chat_template=template + "<|end|>",
            add_generation_prompt=False,
            continue_final_message=True,
        )
        assert text == "so be "
