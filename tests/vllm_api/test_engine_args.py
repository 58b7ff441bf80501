# SPDX-License-Identifier: Apache-2.0

"""Arguments of vLLM's ``EngineArgs``, given to `LLM` on another backend."""

from __future__ import annotations

import dataclasses
import logging
import re
import sys
import types

import pytest

from unillm import LLM, SamplingParams
from unillm.errors import ConfigError
from unillm.plugins import PluginRegistry
from unillm.vllm_api.engine_args import (
    GENERATOR_OPTIONS,
    REFUSED,
    REMOVED,
    TUNING,
    recorded_defaults,
    stated_arguments,
    taken_arguments,
)

COUNT = "Count from 3 to 9:"


def create(**options):
    return LLM("unillm/tiny", backend="transformers", **options)


def test_tuning_is_left_out_and_logged(caplog):
    caplog.set_level(logging.INFO, "unillm")

    with create(
        gpu_memory_utilization=0.5,
        enable_prefix_caching=True,
        kv_cache_memory_bytes=1 << 26,
        block_size=32,
        compilation_config={"mode": 0},
        disable_log_stats=False,  # vLLM's default
    ):
        pass

    [logged] = [each for each in caplog.messages if "left out" in each]
    assert logged.endswith(
        ": block_size, compilation_config, gpu_memory_utilization, "
        "kv_cache_memory_bytes"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hf_overrides": {"a": 1}}, r"hf_overrides=\{'a': 1\} on the backend"),
        ({"tensor_parallel_size": 2}, "does not take tensor_parallel_size=2"),
    ],
    ids=["vLLM alone has it", "the engine does not honour it"],
)
def test_an_argument_that_may_change_a_result_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        create(**options)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_an_argument_that_no_backend_honours_is_refused_with_the_reason(name):
    reason = re.escape(REFUSED[name])

    with pytest.raises(ConfigError, match=f"cannot honour {name}=.*: {reason}"):
        LLM("an/id-of-the-hub", **{name: "something"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("revision", "main"),
        ("tokenizer_revision", "5f3a"),
        ("download_dir", "/no/such/folder"),
        ("hf_token", "secret"),
        ("hf_token", True),
        ("limit_mm_per_prompt", {"image": 0, "video": 0}),
        ("model_impl", "transformers"),
        ("reasoning_parser_plugin", ""),  # the default of vLLM's command line alone
        ("structured_outputs_config", {"backend": "auto"}),
        ("structured_outputs_config", {"disable_any_whitespace": False}),
        ("structured_outputs_config", {"backend": "xgrammar"}),
        ("structured_outputs_config", {"backend": "outlines"}),
        ("speculative_config", {"method": "ngram", "num_speculative_tokens": 2}),
    ],
)
def test_a_value_that_changes_nothing_is_taken_with_a_local_model(name, value):
    stated = stated_arguments({name: value}, "unillm/tiny")

    backend = types.SimpleNamespace(
        name="other", engine_options=frozenset(), option_names=frozenset()
    )
    assert taken_arguments(stated, backend) == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limit_mm_per_prompt", {"image": 1}),
        ("model_impl", "vllm"),
        ("structured_outputs_config", {"backend": "another"}),
        ("structured_outputs_config", {"reasoning_parser": "deepseek_r1"}),
        ("structured_outputs_config", "xgrammar"),
        ("speculative_config", {"method": "extract_hidden_states"}),
        ("speculative_config", {"method": "ngram", "synthetic_acceptance_length": 2}),
    ],
)
def test_a_value_that_matters_stays_refused(name, value):
    with pytest.raises(ConfigError, match=f"cannot honour {name}="):
        create(**{name: value})


def test_the_revision_main_is_that_of_the_hub_and_another_is_passed_on():
    assert stated_arguments({"revision": "main"}, "an/id-of-the-hub") == {}
    given = {"revision": "5f3a"}
    assert stated_arguments(given, "an/id-of-the-hub") == given


@pytest.mark.parametrize("name", sorted(REMOVED))
def test_a_removed_argument_is_a_type_error_with_the_replacement(name):
    with pytest.raises(TypeError, match=re.escape(f"{name!r}: {REMOVED[name]}.")):
        LLM("unillm/tiny", **{name: 1})


@pytest.mark.parametrize(
    ("options", "nearest"),
    [
        ({"enforce_eagre": True}, "enforce_eager"),
        ({"strict_lenght": 1}, "strict_length"),
    ],
    ids=["vLLM's", "unillm's"],
)
@pytest.mark.parametrize("has_vllm", [True, False], ids=["vLLM", "no vLLM"])
def test_an_unknown_argument_is_a_type_error_that_names_the_nearest(
    monkeypatch, options, nearest, has_vllm
):
    status = types.SimpleNamespace(available=has_vllm)
    monkeypatch.setattr(PluginRegistry, "names", lambda _: ["transformers", "vllm"])
    monkeypatch.setattr(PluginRegistry, "status", lambda *_: status)

    with pytest.raises(TypeError, match=f"Did you mean '{nearest}'"):
        create(**options)


@pytest.mark.parametrize("value", ["default", None], ids=str)
def test_vllms_defaults_and_none_are_taken_on_every_backend(value):
    defaults = recorded_defaults()
    given = defaults if value == "default" else dict.fromkeys(defaults, value)

    with create(**given) as tiny:
        [output] = tiny.generate(COUNT, use_tqdm=False)

    assert output.text == "3 4 5 6 7 8 9"


def test_a_value_that_requests_the_usual_behaviour_is_not_stated():
    given = {
        "runner": "generate",
        "load_format": "safetensors",
        "offload_params": set(),
    }

    stated = stated_arguments({**given, "block_size": 32}, "unillm/tiny")

    assert stated == {"block_size": 32}


def test_an_imported_vllm_has_the_last_word_on_its_defaults(monkeypatch):
    @dataclasses.dataclass
    class EngineArgs:
        block_size: int = 64
        new_config: dict = dataclasses.field(default_factory=lambda: {"mode": 1})

    module = types.SimpleNamespace(EngineArgs=EngineArgs)
    monkeypatch.setitem(sys.modules, "vllm.engine.arg_utils", module)

    given = {"block_size": 64, "new_config": {"mode": 1}, "seed": 5}
    stated = stated_arguments(given, "unillm/tiny")

    assert stated == {"seed": 5}


def test_vllm_gets_every_argument_also_one_that_unillm_does_not_know():
    stated = {"block_size": 32, "hf_overrides": {"a": 1}, "newer_than_unillm": 1}

    assert taken_arguments(stated, types.SimpleNamespace(name="vllm")) == stated


def test_another_backend_gets_the_arguments_that_it_names():
    backend = types.SimpleNamespace(
        name="other",
        engine_options=frozenset({"enable_prefix_caching"}),
        option_names=frozenset({"block_size", "device"}),
    )
    given = {"enable_prefix_caching": True, "block_size": 32}

    assert taken_arguments({**given, "watermark": 0.5}, backend) == given


def test_options_of_a_generator_are_options_of_an_llm():
    with (
        create(strict_length=True) as tiny,
        pytest.raises(ValueError, match="max_tokens=5000 does not fit"),
    ):
        tiny.generate(COUNT, SamplingParams(max_tokens=5000))


def test_a_context_of_minus_one_is_the_models_context():
    with create(max_model_len=-1) as tiny:
        assert tiny.generator.limits.max_model_len == 1024


def test_every_judgement_is_about_an_argument_of_vllm():
    known = set(recorded_defaults())

    assert known >= TUNING | REFUSED.keys()
    assert not TUNING & REFUSED.keys()
    assert not REMOVED.keys() & known
    assert not REFUSED.keys() & GENERATOR_OPTIONS
