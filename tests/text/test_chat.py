# SPDX-License-Identifier: Apache-2.0

"""Conversations: their forms, and the templates of tokenizers."""

from __future__ import annotations

import copy
import logging
import shutil

import pytest
from transformers import PreTrainedTokenizerFast

from unillm.errors import ChatTemplateError, InvalidPromptError, PromptTypeError
from unillm.text.chat import as_conversation, for_template
from unillm.text.loading import load_tokenizer

HELLO = {"role": "user", "content": "hello"}


def shaped(messages, content_format="string", template=""):
    return for_template(as_conversation(messages), template, content_format)


def texts(*contents):
    return [{"type": "text", "text": content} for content in contents]


# ------------------------------------------------------------------- forms of a message


def test_contents_have_the_format_of_the_template_and_the_callers_messages_stay():
    messages = [
        {"content": texts("a", "", "b"), "role": "user", "name": "x"},
        {"role": "assistant"},
        {"role": "user", "content": ["c", {"text": "d"}]},
        {"role": "user", "content": ""},
        {"role": "tool", "content": texts("e", "f")},
    ]
    before = copy.deepcopy(messages)

    assert shaped(messages) == [
        {"role": "user", "content": "a\nb", "name": "x"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "c\nd"},
        {"role": "user", "content": ""},
        {"role": "tool", "content": "e\nf"},
    ]
    assert shaped(messages, "openai") == [
        {"role": "user", "content": texts("a", "", "b"), "name": "x"},
        {"role": "assistant", "content": []},
        {"role": "user", "content": texts("c", "d")},
        {"role": "user", "content": texts("")},
        {"role": "tool", "content": "e\nf"},
    ]
    assert list(shaped(messages)[0]) == ["role", "content", "name"]
    assert messages == before


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"type": "input_text", "text": "a"}, texts("a")),
        ({"type": "output_text", "text": "a", "annotations": None}, texts("a")),
        ({"type": "refusal", "refusal": "no"}, texts("no")),
        ({"type": "thinking", "thinking": "hm"}, texts("hm")),
        ({"type": "text", "text": None}, []),
        (
            {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}},
            [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}],
        ),
    ],
    ids=lambda value: value.get("type") if isinstance(value, dict) else "",
)
def test_every_type_of_part_that_is_text_becomes_a_text_part(part, expected):
    [message] = shaped([{"role": "user", "content": [part]}], "openai")

    assert message["content"] == expected


def called(arguments):
    function = {"arguments": arguments, "name": "add"}
    return {"id": "call_1", "function": function, "type": "function"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ('{"a": 17, "b": [25]}', {"a": 17, "b": [25]}),
        ({"a": 17}, {"a": 17}),
        ("{}", {}),
        ("", {}),
        (None, {}),
    ],
)
def test_arguments_of_a_tool_call_are_a_dict(given, expected, caplog):
    message = {"role": "assistant", "content": None, "tool_calls": [called(given)]}
    before = copy.deepcopy(message)

    assert shaped([message]) == [
        {**message, "content": "", "tool_calls": [called(expected)]}
    ]
    assert message == before
    assert caplog.records == []


@pytest.mark.parametrize("given", ['{"a": 17', "[17]", "17", '"a"', [17]])
def test_arguments_that_are_no_object_are_an_empty_dict_with_a_warning(given, caplog):
    message = {"role": "assistant", "tool_calls": [called(given)]}

    with caplog.at_level(logging.WARNING, "unillm"):
        [found] = shaped([message])

    assert found["tool_calls"] == [called({})]
    assert "message 0 calls the function 'add'" in caplog.text


def test_a_tool_call_without_arguments_or_without_a_function_around_it():
    calls = [
        {"type": "function", "function": {"name": "now"}},
        {"name": "add", "arguments": '{"a": 1}'},
    ]

    [found] = shaped([{"role": "assistant", "tool_calls": iter(calls)}])

    assert found["tool_calls"] == [
        {"type": "function", "function": {"name": "now", "arguments": {}}},
        {"name": "add", "arguments": {"a": 1}},
    ]


@pytest.mark.parametrize(
    ("call", "kind"), [({"type": "custom", "custom": {}}, "'custom'"), ("add", "'str'")]
)
def test_a_tool_call_that_is_not_of_a_function_is_refused(call, kind):
    with pytest.raises(
        InvalidPromptError, match=f"Message 1 has a tool call .* {kind}"
    ):
        as_conversation([HELLO, {"role": "assistant", "tool_calls": [call]}])


@pytest.mark.parametrize("calls", [5, "add", {"name": "add"}])
def test_tool_calls_are_a_list(calls):
    with pytest.raises(PromptTypeError, match="tool_calls of message 1 must be a list"):
        as_conversation([HELLO, {"role": "assistant", "tool_calls": calls}])


@pytest.mark.parametrize("calls", [None, []])
def test_keys_that_hold_nothing_are_left_out(calls):
    """As ``model_dump()`` of OpenAI's ``ChatCompletionMessage`` writes them."""
    message = {
        "content": "Hi",
        "refusal": None,
        "role": "assistant",
        "annotations": None,
        "audio": None,
        "function_call": None,
        "tool_calls": calls,
        "name": None,
        "reasoning_content": None,
    }

    assert shaped([message]) == [{"role": "assistant", "content": "Hi"}]


@pytest.mark.parametrize("key", ["reasoning", "reasoning_content"])
def test_reasoning_has_both_of_its_names(key):
    [found] = shaped([{"role": "assistant", "content": "Hi", key: "so"}])

    assert (found["reasoning"], found["reasoning_content"]) == ("so", "so")


# -------------------------------------------------------------------- developers' role

DEVELOPER = {"role": "developer", "content": "be brief", "tools": []}


def test_a_template_that_does_not_know_developers_gets_them_as_the_system():
    assert shaped([DEVELOPER, HELLO]) == [
        {"role": "system", "content": "be brief"},
        HELLO,
    ]
    assert shaped([DEVELOPER, HELLO], template="m.role == 'developer'") == [
        DEVELOPER,
        HELLO,
    ]


@pytest.mark.parametrize("content_format", ["string", "openai"])
def test_several_systems_messages_become_one_where_a_developers_is_renamed(
    content_format,
):
    system = {"role": "system", "content": "be kind"}
    merged = "be kind\n\nbe brief"

    found = shaped([system, HELLO, DEVELOPER], content_format)

    assert found[0] == {
        "role": "system",
        "content": merged if content_format == "string" else texts(merged),
    }
    assert [message["role"] for message in found] == ["system", "user"]
    assert [m["role"] for m in shaped([HELLO, system])] == ["user", "system"]


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


# --------------------------------------------------------------------- named templates


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "default"),
        ({"tools": []}, "tool_use"),
        ({"tools": [{"name": "f"}]}, "tool_use"),
        ({"chat_template": "tool_use"}, "tool_use"),
        ({"chat_template": "rag"}, "rag"),
        ({"chat_template": "default", "tools": []}, "default"),
        ({"chat_template": "{{ 'own' }}", "tools": []}, "own"),
    ],
    ids=str,
)
def test_one_of_several_templates_renders_as_transformers_chooses(
    llama3_dir, options, expected
):
    wrapped = PreTrainedTokenizerFast.from_pretrained(llama3_dir)
    wrapped.chat_template = {
        name: f"{{{{ '{name}' }}}}" for name in ("default", "tool_use", "rag")
    }

    text = load_tokenizer(wrapped).apply_chat_template([HELLO], **options)

    assert text == expected
    assert text == wrapped.apply_chat_template([HELLO], tokenize=False, **options)


def test_without_a_default_only_a_name_or_tools_choose_a_template(llama3_dir):
    wrapped = PreTrainedTokenizerFast.from_pretrained(llama3_dir)
    wrapped.chat_template = {"tool_use": "{{ 1 }}", "rag": "{{ 2 }}"}
    tokenizer = load_tokenizer(wrapped)

    assert tokenizer.apply_chat_template([HELLO], tools=[]) == "1"
    assert tokenizer.apply_chat_template([HELLO], chat_template="rag") == "2"
    with pytest.raises(
        ChatTemplateError, match=r"'rag', 'tool_use', and none .* default"
    ):
        tokenizer.apply_chat_template([HELLO])
    with pytest.raises(
        ChatTemplateError, match=r"name of one .* \('rag', 'tool_use'\)"
    ):
        tokenizer.apply_chat_template([HELLO], chat_template="tools")


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
        ({"chat_template": "template.jinja"}, "text of a Jinja template .* got 'templ"),
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
