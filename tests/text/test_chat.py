# SPDX-License-Identifier: Apache-2.0

"""Conversations: their forms, and the templates of tokenizers."""

from __future__ import annotations

import shutil

import pytest
from transformers import PreTrainedTokenizerFast

from unillm.errors import ChatTemplateError, InvalidPromptError
from unillm.text.chat import as_conversation
from unillm.text.loading import load_tokenizer

HELLO = {"role": "user", "content": "hello"}


def test_content_becomes_one_text_and_the_callers_messages_stay():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [{"role": "user", "content": parts, "name": "x"}, {"role": "assistant"}]

    conversation = as_conversation(messages)

    assert conversation == [
        {"role": "user", "content": "a\nb", "name": "x"},
        {"role": "assistant", "content": ""},
    ]
    assert messages == [
        {"role": "user", "content": parts, "name": "x"},
        {"role": "assistant"},
    ]


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "has no message"),
        (None, "got NoneType"),
        (HELLO, "got dict"),
        ("hello", "got str"),
        ([HELLO, "hello"], "Message 1 must be a dict"),
        ([{"content": "a"}], 'Message 0 needs a "role"'),
        ([{"role": 1, "content": "a"}], "that is a text, got 1"),
        ([{"role": "user", "content": 5}], "content of message 0 must be a text"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
            "part of type 'image_url'; only text",
        ),
        (
            [{"role": "user", "content": [{"type": "image", "text": "a"}]}],
            "part of type 'image'",
        ),
        ([{"role": "user", "content": [5]}], "message 0 has a part of type 'int'"),
        (
            [HELLO, {"role": "user", "content": [{"type": "image_url"}]}],
            "message 1 has a part of type 'image_url'",
        ),
    ],
)
def test_a_message_of_another_form_is_refused_with_its_position(messages, message):
    with pytest.raises(InvalidPromptError, match=message):
        as_conversation(messages)


def test_a_bare_tokenizer_with_a_template_beside_it_can_chat(llama3_dir, tmp_path):
    for name in ("tokenizer.json", "chat_template.jinja"):
        shutil.copy(llama3_dir / name, tmp_path)

    tokenizer = load_tokenizer(tmp_path)

    assert tokenizer.apply_chat_template([HELLO]).endswith(
        "assistant<|end_header_id|>\n\n"
    )


def test_the_error_without_a_template_names_the_files_of_the_tokenizer(
    sentencepiece_dir,
):
    class Object:
        def encode(self, text):
            return [1]

        def decode(self, ids):
            return "x"

    for source, where in (
        (Object(), ""),
        (sentencepiece_dir, f" ({sentencepiece_dir / 'tokenizer.model'})"),
    ):
        with pytest.raises(ChatTemplateError) as caught:
            load_tokenizer(source).apply_chat_template([HELLO])
        assert f"The tokenizer has no chat template{where}. Pass" in str(caught.value)


def test_the_default_of_several_templates_is_used(llama3_dir):
    wrapped = PreTrainedTokenizerFast.from_pretrained(llama3_dir)
    wrapped.chat_template = {"tools": "{{ 1 }}", "default": "{{ 2 }}"}

    assert load_tokenizer(wrapped).chat_template == "{{ 2 }}"

    wrapped.chat_template = {"tools": "{{ 1 }}"}
    assert load_tokenizer(wrapped).chat_template is None


def test_the_directorys_template_renders(llama3_dir):
    text = load_tokenizer(llama3_dir).apply_chat_template([HELLO])

    assert text == (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nhello<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def test_the_generation_prompt_can_be_left_out(llama3_dir):
    text = load_tokenizer(llama3_dir).apply_chat_template(
        [HELLO], add_generation_prompt=False
    )

    assert text.endswith("hello<|eot_id|>")


def test_the_final_message_can_be_continued(llama3_dir):
    messages = [HELLO, {"role": "assistant", "content": "I say"}]

    text = load_tokenizer(llama3_dir).apply_chat_template(
        messages, add_generation_prompt=False, continue_final_message=True
    )

    assert text.endswith("I say")


@pytest.mark.parametrize("family", ["llama3", "sentencepiece", "letters"])
def test_a_caller_may_pass_a_template_with_variables(families, family):
    text = families[family].apply_chat_template(
        [HELLO], chat_template="{{ mood }}: {{ messages[0].content }}", mood="calm"
    )

    assert text == "calm: hello"


def test_a_template_has_the_special_tokens_of_a_bare_tokenizer(families):
    text = families["sentencepiece"].apply_chat_template(
        [HELLO], chat_template="{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"
    )

    assert text == "<s>hello</s>"


@pytest.mark.parametrize("family", ["gpt2", "llama2", "sentencepiece", "letters"])
def test_a_tokenizer_without_a_template_refuses_a_chat(families, family):
    with pytest.raises(ChatTemplateError, match="no chat template"):
        families[family].apply_chat_template([HELLO])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"chat_template": "{{ raise_exception('roles must alternate') }}"},
            "alternate",
        ),
        ({"chat_template": "{{ messages"}, "TemplateSyntaxError"),
        ({"chat_template": "{{ messages.x.y }}"}, "UndefinedError"),
        ({"chat_template": "{{ ''.__class__.__mro__ }}"}, "SecurityError"),
        ({"chat_template": "template.jinja"}, "text of a Jinja template, got 'templ"),
        ({"continue_final_message": True}, "exclude each other"),
    ],
    ids=["raises", "syntax", "undefined", "sandbox", "name", "contradiction"],
)
@pytest.mark.parametrize("family", ["llama3", "sentencepiece"])
def test_an_error_of_a_template_is_in_the_message(families, family, options, message):
    options.setdefault("chat_template", "{{ messages[0].content }}")

    with pytest.raises(ChatTemplateError, match=message):
        families[family].apply_chat_template([HELLO], **options)


def test_bad_messages_are_refused_before_the_template(families):
    with pytest.raises(InvalidPromptError, match="Message 0"):
        families["llama3"].apply_chat_template(["hello"])
