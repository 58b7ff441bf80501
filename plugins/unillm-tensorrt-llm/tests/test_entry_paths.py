# SPDX-License-Identifier: Apache-2.0

"""The entry path of a model, by version of TensorRT-LLM and kind of model."""

from __future__ import annotations

import json

import pytest
from conftest import TINY
from unillm_tensorrt_llm._engine_dir import EngineDirectory
from unillm_tensorrt_llm._entry_paths import EntryPath, Installed, choose

from unillm.errors import BackendUnavailableError, ConfigError, ModelLoadError


def entry_path(path, wanted=None):
    return choose(Installed.look(), path, wanted).entry_path


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("0.11", EntryPath.RUNNER),
        ("0.21", EntryPath.ENGINE),
        ("1.2", EntryPath.PYTORCH),
        ("1.3rc20", EntryPath.PYTORCH),
        ("1.4", EntryPath.PYTORCH),
    ],
)
def test_the_version_decides_the_entry_path_of_a_checkpoint(install, version, expected):
    install(version)

    assert entry_path(TINY) is expected


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("0.11", EntryPath.RUNNER),
        ("0.21", EntryPath.ENGINE),
        ("1.2", EntryPath.ENGINE),
        ("1.3rc20", EntryPath.ENGINE),
    ],
)
def test_an_engine_with_inflight_batching_uses_the_llm_api_where_it_keeps_stop_ids(
    install, engine_at, version, expected
):
    install(version)

    assert entry_path(engine_at(inflight=True)) is expected


@pytest.mark.parametrize("version", ["0.11", "0.21", "1.2", "1.3rc20"])
def test_an_engine_without_inflight_batching_uses_the_runner(
    install, engine_at, version
):
    install(version)

    assert entry_path(engine_at(inflight=False)) is EntryPath.RUNNER


def test_an_engine_after_the_last_version_with_engines_is_refused_with_that_version(
    install, engine_at
):
    install("1.2")
    path = engine_at()
    install("1.4")

    with pytest.raises(BackendUnavailableError, match=r"up to 1\.3\.0rc20.*1\.2\.1"):
        entry_path(path)


@pytest.mark.parametrize("wanted", ["engine", "runner"])
def test_a_removed_entry_path_is_refused_with_the_last_version(install, wanted):
    install("1.4")

    with pytest.raises(BackendUnavailableError, match=r"up to 1\.3\.0rc20"):
        entry_path(TINY, wanted)


def test_pytorch_is_refused_before_1_0(install):
    install("0.21")

    with pytest.raises(BackendUnavailableError, match=r"from TensorRT-LLM 1\.0 on; 0"):
        entry_path(TINY, "pytorch")


def test_an_unknown_entry_path_is_refused_with_the_nearest_name(install):
    install("1.2")

    with pytest.raises(ConfigError, match="Did you mean 'pytorch'"):
        entry_path(TINY, "pytroch")


def test_pytorch_refuses_an_engine_directory(install, engine_at):
    install("1.2")

    with pytest.raises(ConfigError, match="takes Hugging Face checkpoints"):
        entry_path(engine_at(), "pytorch")


def test_a_converted_checkpoint_is_refused_with_the_command(install, tmp_path):
    install("1.2")
    (tmp_path / "rank0.safetensors").touch()

    with pytest.raises(ConfigError, match="Build an engine of it with trtllm-build"):
        entry_path(tmp_path)


def test_the_entry_path_and_its_reason_are_logged_once(install, open_generator, caplog):
    install("1.2")
    caplog.set_level("INFO", "unillm.tensorrt_llm")

    open_generator()

    messages = [record.getMessage() for record in caplog.records]
    [logged] = [each for each in messages if "entry path" in each]
    assert "pytorch" in logged
    assert "1.2.1" in logged


# --------------------------------------------------------------- the engine directory


def test_limits_are_read_from_the_engines_configuration(install, engine_at):
    install("1.2")
    path = engine_at(max_batch_size=4, max_input_len=100, max_seq_len=300)

    engine = EngineDirectory.read(path)

    limits = engine.max_batch_size, engine.max_input_len, engine.max_seq_len
    assert limits == (4, 100, 300)
    assert engine.version == "1.2.1"


def test_a_packed_engine_takes_prompts_up_to_max_num_tokens(install, engine_at):
    """Such a build ignores max_input_len, as its log says."""
    install("1.2")
    packed = engine_at("a", max_input_len=10, max_num_tokens=200, inflight=True)
    padded = engine_at("b", max_input_len=10, max_num_tokens=200, inflight=False)

    assert EngineDirectory.read(packed).longest_prompt == 200
    assert EngineDirectory.read(padded).longest_prompt == 10


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
def test_inflight_batching_follows_the_rule_of_the_runtime(
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

    assert EngineDirectory.read(path).inflight is expected


def test_an_engine_older_than_0_8_is_refused(install, engine_at):
    install("0.11")
    path = engine_at()
    (path / "config.json").write_text('{"builder_config": {}, "plugin_config": {}}')

    with pytest.raises(ModelLoadError, match=r"before 0\.8"):
        EngineDirectory.read(path)


def test_the_error_of_a_broken_engine_configuration_names_the_file(install, engine_at):
    install("0.21")
    path = engine_at()
    (path / "config.json").write_text('{"version": "0.21.0"}')

    with pytest.raises(ModelLoadError, match=r"config\.json is not an output"):
        EngineDirectory.read(path)
