# SPDX-License-Identifier: Apache-2.0

"""`LLM` by itself. ``tests/dropin`` runs programs written for vLLM."""

from __future__ import annotations

import gc
import json
import re
import subprocess
import sys
import types
import weakref

import pytest

import unillm
from unillm import LLM, SamplingParams
from unillm.errors import (
    BackendNotFoundError,
    ChatTemplateError,
    ConfigError,
    InvalidParameterError,
    PromptTooLongError,
    RequestsRefusedError,
    UnsupportedParameterError,
)
from unillm.plugins import PluginRegistry
from unillm.vllm_api import llm
from unillm.vllm_api.names import UNAVAILABLE_IMPORTS, UNAVAILABLE_MEMBERS

COUNT = "Count from 3 to 9:"
NUMBERS = "3 4 5 6 7 8 9"


@pytest.fixture(scope="module")
def tiny():
    with LLM("unillm/tiny", backend="transformers", max_model_len=128) as llm:
        yield llm


def text(llm, **options):
    [output] = llm.generate(COUNT, use_tqdm=False, **options)
    return output.text


# ---------------------------------------------------------------------- which backend


def test_the_environment_names_the_backend(monkeypatch):
    monkeypatch.setenv("UNILLM_BACKEND", "no-such")

    with pytest.raises(BackendNotFoundError, match="'no-such'"):
        LLM("unillm/tiny")


def test_the_argument_takes_precedence_over_the_environment(monkeypatch):
    monkeypatch.setenv("UNILLM_BACKEND", "no-such")

    with LLM("unillm/tiny", backend="transformers") as tiny:
        assert tiny.generator.backend == "transformers"


@pytest.mark.parametrize(
    ("available", "environment", "named"),
    [
        (True, "", "vllm"),
        (False, "", None),
        (True, "transformers", None),
    ],
    ids=["vLLM can run", "vLLM cannot run", "the environment names another"],
)
def test_vllm_is_the_default_where_it_can_run(
    monkeypatch, available, environment, named
):
    class Resolved(Exception):
        pass

    def resolve(model, backend, **options):
        raise Resolved(backend)

    status = types.SimpleNamespace(available=available)
    monkeypatch.setattr(PluginRegistry, "names", lambda _: ["transformers", "vllm"])
    monkeypatch.setattr(PluginRegistry, "status", lambda *_: status)
    monkeypatch.setattr(llm, "resolve", resolve)
    monkeypatch.setenv("UNILLM_BACKEND", environment)

    with pytest.raises(Resolved) as caught:
        LLM("unillm/tiny")

    assert caught.value.args == (named,)


# ------------------------------------------------------------- templates and defaults


def test_a_chat_template_is_a_text_or_a_file(tmp_path):
    file = tmp_path / "template.jinja"
    file.write_text("{{ bos_token }}{{ messages[0].content }}")
    messages = [{"role": "user", "content": COUNT}]

    for template in (file.read_text(), str(file)):
        with LLM("unillm/tiny", backend="transformers", chat_template=template) as tiny:
            [output] = tiny.chat(messages, use_tqdm=False)
            assert output.prompt.endswith(f">{COUNT}")
    for path in ("/no/such/file", "template.jinja"):
        with pytest.raises(ConfigError, match="nor a file that exists"):
            LLM("unillm/tiny", chat_template=path)
    with pytest.raises(ChatTemplateError, match=r"name of one .* \('default'\)"):
        LLM("unillm/tiny", chat_template="tool_use")


def test_the_models_sampling_defaults_may_be_changed_by_assignment(tiny):
    params = tiny.get_default_sampling_params()
    params.max_tokens = 3

    assert text(tiny, sampling_params=params) == "3 4"
    assert text(tiny) == NUMBERS


def test_generation_config_vllm_gives_neutral_defaults():
    with LLM("unillm/tiny", backend="transformers", generation_config="vllm") as tiny:
        assert tiny.get_default_sampling_params() == SamplingParams(max_tokens=16)


def test_generation_config_names_another_directory(tmp_path):
    config = {"temperature": 0.5, "top_k": 7}
    (tmp_path / "generation_config.json").write_text(json.dumps(config))

    with LLM(
        "unillm/tiny", backend="transformers", generation_config=str(tmp_path)
    ) as tiny:
        defaults = tiny.get_default_sampling_params()
    assert defaults == SamplingParams(temperature=0.5, top_k=7, max_tokens=16)
    with pytest.raises(ConfigError, match=r"has a generation_config\.json"):
        LLM("unillm/tiny", generation_config=str(tmp_path / "none"))


def test_override_generation_config_replaces_single_defaults():
    with LLM(
        "unillm/tiny",
        backend="transformers",
        override_generation_config={"max_new_tokens": 5, "top_p": 0.5},
    ) as tiny:
        params = tiny.get_default_sampling_params()
        assert (params.temperature, params.max_tokens, params.top_p) == (0.0, 5, 0.5)
        assert text(tiny) == "3 4 5"


def test_invalid_defaults_are_refused_before_the_model_is_found(monkeypatch):
    monkeypatch.setattr(llm, "resolve", None)

    with pytest.raises(ValueError, match="top_p must be a number"):
        LLM("unillm/tiny", override_generation_config={"top_p": 7})


# --------------------------------------------------------------------------- one call


def test_request_ids_count_from_zero():
    with LLM("unillm/tiny", backend="transformers") as tiny:
        first = tiny.generate([COUNT, COUNT], use_tqdm=False)
        second = tiny.generate([COUNT], use_tqdm=False)

    assert [output.request_id for output in first + second] == ["0", "1", "2"]


def test_a_refused_prompt_leaves_the_others_of_its_call_running(tiny):
    with pytest.raises(ValueError, match="1 of 3 requests failed") as caught:
        tiny.generate([COUNT, [5] * 500, COUNT], use_tqdm=False)

    assert isinstance(caught.value, RequestsRefusedError)
    assert isinstance(caught.value.errors[1], PromptTooLongError)
    texts = [None if each is None else each.text for each in caught.value.results]
    assert texts == [NUMBERS, None, NUMBERS]


def test_tokenization_kwargs_truncate_a_prompt(tiny):
    asked = {"truncate_prompt_tokens": 4}
    params = SamplingParams(max_tokens=1)

    for given in (None, params, [params]):
        [output] = tiny.generate(
            COUNT, given, use_tqdm=False, tokenization_kwargs=asked
        )
        assert len(output.prompt_token_ids) == 4
    assert params.truncate_prompt_tokens is None


@pytest.mark.parametrize("params", [5, [None]])
def test_tokenization_kwargs_change_no_params_that_are_none(tiny, params):
    with pytest.raises(InvalidParameterError, match="params must be SamplingParams"):
        tiny.generate([COUNT], params, tokenization_kwargs={"truncation": False})
    with pytest.raises(InvalidParameterError, match="params must be SamplingParams"):
        tiny.generate(
            [COUNT], params, tokenization_kwargs={"truncate_prompt_tokens": 4}
        )


def test_tokenization_kwargs_leave_special_tokens_out_or_change_nothing(tiny):
    params = SamplingParams(max_tokens=1)
    neutral = {
        "add_special_tokens": True,
        "truncation": False,
        "padding": "do_not_pad",
        "max_length": None,
        "needs_detokenization": True,
    }

    def ids(prompt, **asked):
        [output] = tiny.generate(
            prompt, params, use_tqdm=False, tokenization_kwargs=asked
        )
        return output.prompt_token_ids

    whole = tiny.get_tokenizer()(COUNT)["input_ids"]
    assert ids(COUNT, **neutral) == whole
    for prompt in (COUNT, {"prompt": COUNT}, [COUNT]):
        assert ids(prompt, add_special_tokens=False) == whole[1:]
    assert ids(whole, add_special_tokens=False) == whole


def test_prompts_with_the_keys_of_vllm_are_taken(tiny):
    prompt = {
        "prompt": COUNT,
        "multi_modal_data": None,
        "mm_processor_kwargs": {},
        "cache_salt": "of one user",
    }

    [output] = tiny.generate(prompt, use_tqdm=False)

    assert output.text == NUMBERS
    with pytest.raises(ValueError, match="maximum context length is 128 tokens"):
        tiny.generate([5] * 512, use_tqdm=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokenization_kwargs": {"do_lower_case": True}}, "do_lower_case=True"),
        ({"tokenization_kwargs": {"add_special_tokens": 1}}, "add_special_tokens=1"),
        ({"tokenization_kwargs": ["padding"]}, "must be a dict or None"),
        ({"mm_processor_kwargs": {"size": 5}}, "text and token ids"),
    ],
    ids=["value", "type", "list", "mm_processor_kwargs"],
)
def test_a_keyword_that_no_backend_honours_is_refused(tiny, options, message):
    with pytest.raises(UnsupportedParameterError, match=message):
        tiny.generate(COUNT, **options)


@pytest.mark.parametrize(
    ("content_format", "expected"),
    [("auto", "ab"), ("string", "a\nb"), ("openai", "ab")],
)
def test_chat_gives_contents_in_the_format_that_is_asked(
    tiny, content_format, expected
):
    template = (
        "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}"
        "{% for part in m.content %}{{ part.text }}{% endfor %}{% endif %}{% endfor %}"
    )
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]

    [output] = tiny.chat(
        [{"role": "user", "content": parts}],
        chat_template=template,
        chat_template_content_format=content_format,
        use_tqdm=False,
    )

    assert output.prompt == expected


def test_chat_takes_its_arguments_in_vllms_order(tiny):
    template = "{{ bos_token }}{{ messages[0].content }}"
    messages = [{"role": "user", "content": COUNT}]

    [output] = tiny.chat(messages, None, False, None, 0, template, "string")

    assert output.prompt.endswith(f">{COUNT}")


# ------------------------------------------------------------------ unavailable names


@pytest.mark.parametrize("name", sorted(UNAVAILABLE_MEMBERS))
def test_an_unavailable_member_names_the_replacement(tiny, name):
    reason = re.escape(UNAVAILABLE_MEMBERS[name])

    with pytest.raises(AttributeError, match=f"no attribute '{name}': {reason}"):
        getattr(tiny, name)


def test_an_unknown_member_is_a_plain_attribute_error(tiny):
    with pytest.raises(AttributeError, match=r"no attribute 'generat'$"):
        tiny.generat  # noqa: B018


@pytest.mark.parametrize("name", sorted(UNAVAILABLE_IMPORTS))
def test_an_unavailable_import_names_the_replacement(name):
    with pytest.raises(ImportError, match=re.escape(UNAVAILABLE_IMPORTS[name])):
        exec(f"from unillm import {name}")
    assert name not in unillm.__all__


# ------------------------------------------------------------------------------ closing


def test_an_llm_is_closed_when_it_is_collected(recwarn):
    tiny = LLM("unillm/tiny", backend="transformers")
    generator, gone = tiny.generator, weakref.ref(tiny)

    del tiny
    gc.collect()

    assert gone() is None
    with pytest.raises(RuntimeError, match="closed"):
        generator.generate(COUNT)
    assert list(recwarn) == []


def test_a_program_that_closes_nothing_ends_without_output_on_stderr():
    program = (
        "from unillm import LLM\n"
        "llm = LLM('unillm/tiny', backend='transformers')\n"
        f"print(llm.generate({COUNT!r}, use_tqdm=False)[0].outputs[0].text)\n"
    )

    run = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )

    assert (run.stdout, run.stderr) == (f"{NUMBERS}\n", "")
