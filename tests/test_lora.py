# SPDX-License-Identifier: Apache-2.0

"""Adapters before any engine sees them: the value and its files."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import attrs
import pytest

from unillm import LoRARequest
from unillm.errors import InvalidParameterError, UnknownArgumentError
from unillm.lora import KnownAdapters, as_adapter

ONE = LoRARequest("one", 1, "/adapters/one")


@pytest.fixture
def adapters():
    return KnownAdapters(max_rank=16)


@pytest.fixture
def adapter(tmp_path):
    return write_adapter(tmp_path / "adapter")


def write_adapter(path: Path, **config) -> Path:
    """Write a directory that looks like an adapter; its weights are never read."""
    path.mkdir()
    config = {"peft_type": "LORA", "r": 8, "target_modules": ["q_proj"], **config}
    (path / "adapter_config.json").write_text(json.dumps(config))
    (path / "adapter_model.safetensors").write_bytes(b"")
    return path


def test_a_request_takes_vllms_names_in_vllms_order():
    named = LoRARequest(lora_name="one", lora_int_id=1, lora_path="/adapters/one")

    assert named == ONE
    assert hash(named) == hash(ONE)


def test_a_request_is_frozen_plain_data():
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        ONE.lora_int_id = 2
    assert pickle.loads(pickle.dumps(ONE)) == ONE


def test_a_path_object_is_taken(tmp_path):
    assert LoRARequest("one", 1, tmp_path).lora_path == str(tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("", 1, "/a"), "lora_name must be a text that is not empty, got ''"),
        (("a", 0, "/a"), "lora_int_id must be an integer ≥ 1, got 0"),
        (("a", True, "/a"), "lora_int_id must be an integer ≥ 1, got True"),
        (("a", "1", "/a"), "lora_int_id must be an integer ≥ 1, got '1'"),
        (("a", 1, ""), "lora_path must be a text that is not empty, got ''"),
        (("a", 1, None), "lora_path must be a text that is not empty, got None"),
    ],
)
def test_a_value_that_cannot_work_is_refused(values, message):
    with pytest.raises(InvalidParameterError) as caught:
        LoRARequest(*values)

    assert message in str(caught.value)
    assert caught.value.parameter == "lora_request"


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(UnknownArgumentError, match="Did you mean 'lora_path'"):
        LoRARequest("one", 1, lora_pth="/adapters/one")


@pytest.mark.parametrize("wrong", ["/adapters/one", 1, ["/adapters/one"]])
def test_another_type_is_refused(wrong):
    with pytest.raises(InvalidParameterError, match="must be a LoRARequest, got"):
        as_adapter(wrong)


# ------------------------------------------------------------------------------ files


def test_a_known_adapter_has_an_absolute_path(adapters, adapter, monkeypatch):
    monkeypatch.chdir(adapter.parent)

    checked = adapters.check(LoRARequest("one", 1, adapter.name))

    assert checked == LoRARequest("one", 1, str(adapter))


def test_files_are_read_once(adapters, adapter):
    request = LoRARequest("one", 1, adapter)
    first = adapters.check(request)
    (adapter / "adapter_config.json").unlink()

    assert adapters.check(request) is first


def refusal(adapters: KnownAdapters, request: LoRARequest) -> str:
    with pytest.raises(InvalidParameterError) as caught:
        adapters.check(request)
    return str(caught.value)


def test_a_missing_directory_is_refused(adapters, tmp_path):
    message = refusal(adapters, LoRARequest("gone", 1, tmp_path / "gone"))

    assert "The adapter 'gone' is not there" in message


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "FileNotFoundError"),
        ("{", "adapter_config.json cannot be read as JSON"),
        ("[]", "adapter_config.json must hold a JSON object"),
        ("[" * 100_000, "adapter_config.json is nested more than 64 levels"),
        ('{"peft_type": "IA3"}', "peft_type is 'IA3', and only 'LORA' is served"),
        ('{"peft_type": "LORA"}', "KeyError('r')"),
        ('{"peft_type": "LORA", "r": "many"}', "ValueError"),
        ('{"peft_type": "LORA", "r": 8, "rank_pattern": [3]}', "AttributeError"),
        ('{"peft_type": "LORA", "r": 1e999}', "r must be an integer ≥ 1, got inf"),
        ('{"peft_type": "LORA", "r": 0}', "r must be an integer ≥ 1, got 0"),
    ],
)
def test_a_broken_configuration_is_refused(adapters, adapter, content, reason):
    file = adapter / "adapter_config.json"
    file.unlink() if content is None else file.write_text(content)

    assert reason in refusal(adapters, LoRARequest("one", 1, adapter))


def test_pickled_weights_are_refused(adapters, adapter):
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")

    message = refusal(adapters, LoRARequest("one", 1, adapter))

    assert "adapter_model.bin, a pickle, which runs code when it is loaded" in message


def test_an_adapter_without_weights_is_refused(adapters, adapter):
    (adapter / "adapter_model.safetensors").unlink()

    assert "so it has no weights" in refusal(adapters, LoRARequest("one", 1, adapter))


@pytest.mark.parametrize("config", [{"r": 32}, {"rank_pattern": {"q_proj": 32}}])
def test_a_rank_over_the_limit_is_refused_with_what_to_pass(adapters, tmp_path, config):
    path = write_adapter(tmp_path / "large", **config)

    message = refusal(adapters, LoRARequest("large", 1, path))

    assert "rank 32, more than this generator's max_lora_rank=16" in message
    assert "Create the Generator with max_lora_rank=32" in message


def test_without_a_limit_the_engine_judges_the_rank(tmp_path):
    request = LoRARequest("large", 1, write_adapter(tmp_path / "large", r=512))

    checked = KnownAdapters(max_rank=None).check(request)

    assert checked.lora_name == "large"


def test_two_adapters_cannot_have_one_id(adapters, adapter, tmp_path):
    other = write_adapter(tmp_path / "other")
    adapters.check(LoRARequest("one", 1, adapter))

    message = refusal(adapters, LoRARequest("other", 1, other))

    assert "lora_int_id=1 is that of 'one'" in message
    assert "Give each adapter an id of its own" in message


def test_one_adapter_may_be_written_in_two_ways(adapters, adapter):
    first = adapters.check(LoRARequest("one", 1, adapter))

    assert adapters.check(LoRARequest("one", 1, f"{adapter}/")) is first
    assert adapters.check(LoRARequest("another name", 1, adapter)) is first
