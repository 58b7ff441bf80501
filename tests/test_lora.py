# SPDX-License-Identifier: Apache-2.0

"""Adapters before any engine sees them: the value, its files, one for each prompt."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import attrs
import pytest

from unillm import LoRARequest
from unillm.errors import InvalidParameterError, UnknownArgumentError
from unillm.lora import AdapterBook, adapters_for

ONE = LoRARequest("one", 1, "/adapters/one")
TWO = LoRARequest("two", 2, "/adapters/two")


@pytest.fixture
def book():
    return AdapterBook(max_rank=16)


@pytest.fixture
def adapter(tmp_path):
    return write_adapter(tmp_path / "adapter")


def write_adapter(path: Path, **config) -> Path:
    """A directory that looks like an adapter; its weights are nobody's business here."""
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
    assert ONE == pickle.loads(pickle.dumps(ONE))


def test_a_path_object_is_taken(tmp_path):
    assert str(tmp_path) == LoRARequest("one", 1, tmp_path).lora_path


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
    assert "lora_request" == caught.value.parameter


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(UnknownArgumentError, match="Did you mean 'lora_path'"):
        LoRARequest("one", 1, lora_pth="/adapters/one")


# --------------------------------------------------------------------- for each prompt


def test_one_adapter_is_for_all_prompts():
    assert [ONE, ONE] == adapters_for(ONE, 2)
    assert [None, None] == adapters_for(None, 2)


def test_a_list_has_one_adapter_or_none_for_each_prompt():
    assert [ONE, None, TWO] == adapters_for([ONE, None, TWO], 3)


def test_a_list_of_another_length_is_refused():
    with pytest.raises(InvalidParameterError, match="There are 3 prompts and 2 lora"):
        adapters_for([ONE, TWO], 3)


@pytest.mark.parametrize("wrong", ["/adapters/one", 1, ["/adapters/one"]])
def test_what_is_no_request_is_refused(wrong):
    with pytest.raises(InvalidParameterError, match="must be a LoRARequest, got"):
        adapters_for(wrong, 1)


# --------------------------------------------------------------------------- its files


def test_an_adapter_that_is_there_gets_an_absolute_path(book, adapter, monkeypatch):
    monkeypatch.chdir(adapter.parent)

    checked = book.check(LoRARequest("one", 1, adapter.name))

    assert LoRARequest("one", 1, str(adapter)) == checked


def test_files_are_read_once(book, adapter):
    request = LoRARequest("one", 1, adapter)
    first = book.check(request)
    (adapter / "adapter_config.json").unlink()

    assert first is book.check(request)


def refusal(book: AdapterBook, request: LoRARequest) -> str:
    with pytest.raises(InvalidParameterError) as caught:
        book.check(request)
    return str(caught.value)


def test_a_missing_directory_is_refused(book, tmp_path):
    message = refusal(book, LoRARequest("gone", 1, tmp_path / "gone"))

    assert "The adapter 'gone' is not there" in message


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "FileNotFoundError"),
        ("{", "JSONDecodeError"),
        ("[]", "peft_type is None"),
        ('{"peft_type": "IA3"}', "peft_type is 'IA3', and only 'LORA' is served"),
        ('{"peft_type": "LORA"}', "KeyError('r')"),
        ('{"peft_type": "LORA", "r": "many"}', "ValueError"),
        ('{"peft_type": "LORA", "r": 8, "rank_pattern": [3]}', "AttributeError"),
    ],
)
def test_a_configuration_that_is_none_is_refused(book, adapter, content, reason):
    file = adapter / "adapter_config.json"
    file.unlink() if content is None else file.write_text(content)

    assert reason in refusal(book, LoRARequest("one", 1, adapter))


def test_pickled_weights_are_refused(book, adapter):
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")

    message = refusal(book, LoRARequest("one", 1, adapter))

    assert "adapter_model.bin, a pickle, which runs code when it is loaded" in message


def test_an_adapter_without_weights_is_refused(book, adapter):
    (adapter / "adapter_model.safetensors").unlink()

    assert "so it has no weights" in refusal(book, LoRARequest("one", 1, adapter))


@pytest.mark.parametrize("config", [{"r": 32}, {"rank_pattern": {"q_proj": 32}}])
def test_a_rank_over_the_limit_is_refused_with_what_to_pass(book, tmp_path, config):
    path = write_adapter(tmp_path / "large", **config)

    message = refusal(book, LoRARequest("large", 1, path))

    assert "rank 32, more than this generator's max_lora_rank=16" in message
    assert "Create the Generator with max_lora_rank=32" in message


def test_without_a_limit_any_rank_is_the_engines_to_judge(tmp_path):
    path = write_adapter(tmp_path / "large", r=512)

    AdapterBook(max_rank=None).check(LoRARequest("large", 1, path))


def test_two_adapters_cannot_have_one_id(book, adapter, tmp_path):
    other = write_adapter(tmp_path / "other")
    book.check(LoRARequest("one", 1, adapter))

    message = refusal(book, LoRARequest("other", 1, other))

    assert "lora_int_id=1 is that of 'one'" in message
    assert "Give each adapter an id of its own" in message


def test_one_adapter_may_be_written_in_two_ways(book, adapter):
    first = book.check(LoRARequest("one", 1, adapter))

    assert first is book.check(LoRARequest("one", 1, f"{adapter}/"))
    assert first is book.check(LoRARequest("another name", 1, adapter))
