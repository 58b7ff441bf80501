# SPDX-License-Identifier: Apache-2.0

"""Which door is taken, by what can be imported and what the model is."""

from __future__ import annotations

import json

import pytest
from conftest import TINY
from unillm_tensorrt_llm._doors import Door, Installed, choose
from unillm_tensorrt_llm._engine_dir import EngineDirectory

from unillm.errors import BackendUnavailableError, ConfigError, ModelLoadError


def door(path, wanted=None):
    return choose(Installed.look(), path, wanted).door


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("0.11", Door.RUNNER),
        ("0.21", Door.ENGINE),
        ("1.2", Door.PYTORCH),
        ("1.3rc20", Door.PYTORCH),
        ("1.4", Door.PYTORCH),
    ],
)
def test_a_checkpoint_goes_through_the_door_of_its_version(install, version, expected):
    install(version)

    assert expected is door(TINY)


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("0.11", Door.RUNNER),
        ("0.21", Door.ENGINE),
        ("1.2", Door.ENGINE),
        ("1.3rc20", Door.ENGINE),
    ],
)
def test_an_engine_with_inflight_batching_is_continuous_where_its_api_says_how_it_ended(
    install, engine_at, version, expected
):
    install(version)

    assert expected is door(engine_at(inflight=True))


@pytest.mark.parametrize("version", ["0.11", "0.21", "1.2", "1.3rc20"])
def test_an_engine_without_inflight_batching_goes_to_the_runner(
    install, engine_at, version
):
    install(version)

    assert Door.RUNNER is door(engine_at(inflight=False))


def test_an_engine_after_the_last_version_with_engines_says_which_version_has_them(
    install, engine_at
):
    install("1.2")
    path = engine_at()
    install("1.4")

    with pytest.raises(BackendUnavailableError, match=r"up to 1\.3\.0rc20.*1\.2\.1"):
        door(path)


@pytest.mark.parametrize("wanted", ["engine", "runner"])
def test_asking_for_a_door_that_is_gone_says_which_version_has_it(install, wanted):
    install("1.4")

    with pytest.raises(BackendUnavailableError, match=r"up to 1\.3\.0rc20"):
        door(TINY, wanted)


def test_asking_for_pytorch_before_1_0_says_so(install):
    install("0.21")

    with pytest.raises(BackendUnavailableError, match=r"from TensorRT-LLM 1\.0 on; 0"):
        door(TINY, "pytorch")


def test_an_unknown_door_is_refused_with_the_nearest(install):
    install("1.2")

    with pytest.raises(ConfigError, match="Did you mean 'pytorch'"):
        door(TINY, "pytroch")


def test_pytorch_refuses_what_was_made_for_engines(install, engine_at):
    install("1.2")

    with pytest.raises(ConfigError, match="takes Hugging Face checkpoints"):
        door(engine_at(), "pytorch")


def test_a_checkpoint_that_was_converted_says_what_to_do_with_it(install, tmp_path):
    install("1.2")
    (tmp_path / "rank0.safetensors").touch()

    with pytest.raises(ConfigError, match="Build an engine of it with trtllm-build"):
        door(tmp_path)


def test_the_door_and_its_reason_are_said_once(install, open_generator, caplog):
    install("1.2")
    caplog.set_level("INFO", "unillm.tensorrt_llm")

    open_generator()

    said = [r.getMessage() for r in caplog.records if "door" in r.getMessage()]
    assert ["pytorch" in line and "1.2.1" in line for line in said] == [True]


# --------------------------------------------------------------- the engine directory


def test_limits_are_read_from_the_engines_own_configuration(install, engine_at):
    install("1.2")
    path = engine_at(max_batch_size=4, max_input_len=100, max_seq_len=300)

    engine = EngineDirectory.read(path)

    assert (4, 100, 300) == (
        engine.max_batch_size,
        engine.max_input_len,
        engine.max_seq_len,
    )
    assert "1.2.1" == engine.version


def test_a_packed_engine_takes_prompts_up_to_max_num_tokens(install, engine_at):
    """The build ignores max_input_len then, and says so."""
    install("1.2")
    packed = engine_at("a", max_input_len=10, max_num_tokens=200, inflight=True)
    padded = engine_at("b", max_input_len=10, max_num_tokens=200, inflight=False)

    assert 200 == EngineDirectory.read(packed).longest_prompt
    assert 10 == EngineDirectory.read(padded).longest_prompt


@pytest.mark.parametrize(
    ("build", "plugins", "expected"),
    [
        ({"kv_cache_type": "PAGED"}, {"remove_input_padding": True}, True),
        ({"kv_cache_type": "KVCacheType.PAGED"}, {"remove_input_padding": True}, True),
        ({"kv_cache_type": "CONTINUOUS"}, {"remove_input_padding": True}, False),
        ({"kv_cache_type": "PAGED"}, {"remove_input_padding": False}, False),
        ({}, {"remove_input_padding": True, "paged_kv_cache": True}, True),
        ({}, {"remove_input_padding": True, "paged_kv_cache": False}, False),
    ],
)
def test_inflight_batching_is_found_as_the_runtime_finds_it(
    install, engine_at, build, plugins, expected
):
    install("0.21")
    path = engine_at()
    file = path / "config.json"
    config = json.loads(file.read_text())
    del config["build_config"]["kv_cache_type"]
    config["build_config"] |= build
    config["build_config"]["plugin_config"] |= plugins
    file.write_text(json.dumps(config))

    assert expected is EngineDirectory.read(path).inflight


def test_an_engine_older_than_0_8_is_refused(install, engine_at):
    install("0.11")
    path = engine_at()
    (path / "config.json").write_text('{"builder_config": {}, "plugin_config": {}}')

    with pytest.raises(ModelLoadError, match=r"before 0\.8"):
        EngineDirectory.read(path)


def test_a_broken_engine_configuration_is_told_with_its_file(install, engine_at):
    install("0.21")
    path = engine_at()
    (path / "config.json").write_text('{"version": "0.21.0"}')

    with pytest.raises(ModelLoadError, match=r"config\.json is not what trtllm-build"):
        EngineDirectory.read(path)
