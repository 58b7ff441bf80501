# SPDX-License-Identifier: Apache-2.0

"""`LLM`: vLLM's class here. Programs for vLLM themselves are in ``tests/dropin``."""

from __future__ import annotations

import gc
import json
import logging
import re
import subprocess
import sys
import weakref

import pytest

import unillm
from unillm import LLM, Generator, SamplingParams
from unillm.errors import (
    BackendNotFoundError,
    ConfigError,
    PromptTooLongError,
    RequestsRefusedError,
    UnknownArgumentError,
    UnsupportedParameterError,
)
from unillm.plugins import PluginRegistry
from unillm.vllm_api import engine_args, llm
from unillm.vllm_api import names as vllm_names
from unillm.vllm_api.engine_args import (
    DEFAULTS,
    EFFORT,
    NOWHERE,
    OBJECT,
    OWN,
    REMOVED,
    SHARED,
)

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


def test_an_argument_goes_before_the_environment(monkeypatch):
    monkeypatch.setenv("UNILLM_BACKEND", "no-such")

    with LLM("unillm/tiny", backend="transformers") as tiny:
        assert "transformers" == tiny.generator.backend


@pytest.mark.parametrize(("available", "chosen"), [(True, "vllm"), (False, "auto")])
def test_vllm_is_the_default_where_it_can_run(monkeypatch, available, chosen):
    def status(_, name):
        return unillm.BackendStatus(
            name=name, available=available, distribution=f"unillm-{name} 1.0"
        )

    monkeypatch.setattr(PluginRegistry, "status", status)
    monkeypatch.setattr(PluginRegistry, "names", lambda _: ["transformers", "vllm"])

    assert chosen == llm._backend_name(PluginRegistry(), None)


# -------------------------------------------------------------------------- arguments


def test_what_changes_no_result_is_left_out_and_said(caplog):
    caplog.set_level(logging.INFO, "unillm")

    with LLM(
        model="unillm/tiny",
        backend="transformers",
        gpu_memory_utilization=0.5,
        enable_prefix_caching=True,
        kv_cache_memory_bytes=1 << 26,
        block_size=32,
        compilation_config={"mode": 0},
        disable_log_stats=False,
    ) as tiny:
        assert NUMBERS == text(tiny)

    [said] = [each for each in caplog.messages if "left out" in each]
    for name in (
        "gpu_memory_utilization",
        "enable_prefix_caching",
        "kv_cache_memory_bytes",
        "block_size",
        "compilation_config",
    ):
        assert name in said
    assert "disable_log_stats" not in said  # vLLM's default


def test_what_only_vllm_has_is_refused_elsewhere():
    with pytest.raises(
        ConfigError, match=r"hf_overrides=\{'a': 1\} on the backend 'transformers'"
    ):
        LLM("unillm/tiny", backend="transformers", hf_overrides={"a": 1})


def test_what_an_engine_does_not_honour_is_refused_as_by_a_generator():
    with pytest.raises(ConfigError, match="does not take tensor_parallel_size=2"):
        LLM("unillm/tiny", backend="transformers", tensor_parallel_size=2)


@pytest.mark.parametrize("name", sorted(NOWHERE))
def test_what_no_backend_honours_is_refused_with_the_reason(name):
    reason = re.escape(NOWHERE[name][1])

    with pytest.raises(ConfigError, match=f"cannot honour {name}=.*: {reason}"):
        LLM("unillm/tiny", **{name: "something"})


@pytest.mark.parametrize("name", sorted(REMOVED))
def test_what_vllm_removed_is_a_type_error_that_says_so(name):
    with pytest.raises(TypeError, match=re.escape(f"{name!r}: {REMOVED[name]}.")):
        LLM("unillm/tiny", **{name: 1})


def test_an_unknown_argument_is_a_type_error_that_names_the_nearest():
    with pytest.raises(UnknownArgumentError, match="Did you mean 'enforce_eager'"):
        LLM("unillm/tiny", enforce_eagre=True)
    with pytest.raises(TypeError, match="Did you mean 'strict_length'"):
        LLM("unillm/tiny", strict_lenght=True)


def test_vllms_own_defaults_say_nothing():
    given = {name: value for name, value in DEFAULTS.items() if value is not OBJECT}

    with LLM("unillm/tiny", backend="transformers", **given) as tiny:
        assert NUMBERS == text(tiny)


def test_none_says_nothing():
    with LLM("unillm/tiny", backend="transformers", **dict.fromkeys(DEFAULTS)) as tiny:
        assert NUMBERS == text(tiny)


def test_options_of_a_generator_are_options_here():
    with (
        LLM("unillm/tiny", backend="transformers", strict_length=True) as tiny,
        pytest.raises(ValueError, match="max_tokens=5000 does not fit"),
    ):
        tiny.generate(COUNT, SamplingParams(max_tokens=5000))


def test_each_shared_argument_is_one_of_the_generator():
    import inspect

    parameters = set(inspect.signature(Generator).parameters)

    assert set(SHARED) <= parameters
    assert not parameters & {*OWN, *EFFORT, *NOWHERE}


def test_every_argument_stands_in_one_place():
    groups = [SHARED, engine_args.TEXT, EFFORT, OWN, NOWHERE, REMOVED]

    assert len({*DEFAULTS, *REMOVED}) == sum(map(len, groups))


def test_a_context_of_minus_one_is_what_the_model_allows():
    with LLM("unillm/tiny", backend="transformers", max_model_len=-1) as tiny:
        assert 1024 == tiny.generator.limits.max_model_len


def test_a_chat_template_is_a_text_or_a_file(tmp_path):
    file = tmp_path / "template.jinja"
    file.write_text("{{ bos_token }}{{ messages[0].content }}")
    messages = [{"role": "user", "content": COUNT}]

    for template in (file.read_text(), str(file)):
        with LLM("unillm/tiny", backend="transformers", chat_template=template) as tiny:
            [output] = tiny.chat(messages, use_tqdm=False)
            assert output.prompt.endswith(f">{COUNT}")
    with pytest.raises(ConfigError, match="nor a file that exists"):
        LLM("unillm/tiny", chat_template="/no/such/file")


# --------------------------------------------------------------------- sampling defaults


def test_the_models_defaults_may_be_changed_by_assignment(tiny):
    params = tiny.get_default_sampling_params()
    params.max_tokens = 3

    assert "3 4" == text(tiny, sampling_params=params)
    assert NUMBERS == text(tiny)


def test_vllms_neutral_defaults_can_be_asked_for():
    with LLM("unillm/tiny", backend="transformers", generation_config="vllm") as tiny:
        assert SamplingParams() == tiny.get_default_sampling_params()


def test_defaults_can_come_from_another_directory(tmp_path):
    config = {"temperature": 0.5, "top_k": 7}
    (tmp_path / "generation_config.json").write_text(json.dumps(config))

    with LLM(
        "unillm/tiny", backend="transformers", generation_config=str(tmp_path)
    ) as tiny:
        assert SamplingParams(temperature=0.5, top_k=7) == (
            tiny.get_default_sampling_params()
        )
    with pytest.raises(ConfigError, match=r"has a generation_config\.json"):
        LLM("unillm/tiny", generation_config=str(tmp_path / "none"))


def test_defaults_can_be_overridden():
    with LLM(
        "unillm/tiny",
        backend="transformers",
        override_generation_config={"max_new_tokens": 5, "top_p": 0.5},
    ) as tiny:
        params = tiny.get_default_sampling_params()
        assert (0.0, 5, 0.5) == (params.temperature, params.max_tokens, params.top_p)
        assert "3 4 5" == text(tiny)


def test_wrong_defaults_are_refused_before_anything_is_loaded(monkeypatch):
    monkeypatch.setattr(llm, "Generator", None)

    with pytest.raises(ValueError, match="top_p must be a number"):
        LLM("unillm/tiny", override_generation_config={"top_p": 7})


# --------------------------------------------------------------------------- one call


def test_request_ids_count_from_zero():
    with LLM("unillm/tiny", backend="transformers") as tiny:
        first = tiny.generate([COUNT, COUNT], use_tqdm=False)
        second = tiny.generate([COUNT], use_tqdm=False)

    assert ["0", "1", "2"] == [output.request_id for output in first + second]


def test_a_bad_prompt_takes_no_good_one_with_it(tiny):
    with pytest.raises(ValueError, match="1 of 3 requests failed") as caught:
        tiny.generate([COUNT, [5] * 500, COUNT], use_tqdm=False)

    assert isinstance(caught.value, RequestsRefusedError)
    assert isinstance(caught.value.errors[1], PromptTooLongError)
    texts = [None if each is None else each.text for each in caught.value.results]
    assert [NUMBERS, None, NUMBERS] == texts


def test_a_prompt_is_truncated_as_vllm_is_asked_to(tiny):
    asked = {"truncate_prompt_tokens": 4}
    params = SamplingParams(max_tokens=1)

    for given in (None, params, [params]):
        [output] = tiny.generate(
            COUNT, given, use_tqdm=False, tokenization_kwargs=asked
        )
        assert 4 == len(output.prompt_token_ids)
    assert params.truncate_prompt_tokens is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokenization_kwargs": {"add_special_tokens": False}}, "add_special_tokens"),
        ({"mm_processor_kwargs": {"size": 5}}, "text and token ids"),
    ],
    ids=["tokenization_kwargs", "mm_processor_kwargs"],
)
def test_what_a_call_cannot_honour_is_refused(tiny, options, message):
    with pytest.raises(UnsupportedParameterError, match=message):
        tiny.generate(COUNT, **options)


def test_content_in_another_format_is_refused(tiny):
    with pytest.raises(UnsupportedParameterError, match="'auto' or 'string'"):
        tiny.chat([], chat_template_content_format="openai")


def test_chat_takes_its_arguments_in_vllms_order(tiny):
    template = "{{ bos_token }}{{ messages[0].content }}"
    messages = [{"role": "user", "content": COUNT}]

    [output] = tiny.chat(messages, None, False, None, 0, template, "string")

    assert output.prompt.endswith(f">{COUNT}")


# ------------------------------------------------------------------------ what is not here


@pytest.mark.parametrize("name", sorted(llm.NOT_HERE))
def test_a_member_that_is_not_here_says_what_to_use(tiny, name):
    reason = re.escape(llm.NOT_HERE[name])

    with pytest.raises(AttributeError, match=f"no attribute '{name}': {reason}"):
        getattr(tiny, name)


def test_a_member_that_nobody_has_is_a_plain_attribute_error(tiny):
    with pytest.raises(AttributeError, match=r"no attribute 'generat'$"):
        tiny.generat  # noqa: B018


@pytest.mark.parametrize("name", sorted(vllm_names.NOT_HERE))
def test_an_import_of_what_is_not_here_says_what_to_use(name):
    with pytest.raises(ImportError, match=re.escape(vllm_names.NOT_HERE[name])):
        exec(f"from unillm import {name}")
    assert name not in unillm.__all__


# ---------------------------------------------------------------------------- its end


def test_it_is_collected_and_closed_without_a_word(recwarn):
    tiny = LLM("unillm/tiny", backend="transformers")
    generator, gone = tiny.generator, weakref.ref(tiny)

    del tiny
    gc.collect()

    assert gone() is None
    with pytest.raises(RuntimeError, match="closed"):
        generator.generate(COUNT)
    assert [] == list(recwarn)


def test_a_program_that_closes_nothing_ends_without_a_word():
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

    assert (f"{NUMBERS}\n", "") == (run.stdout, run.stderr)
