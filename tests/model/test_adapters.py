# SPDX-License-Identifier: Apache-2.0

"""Adapters in the directory of a model, and in place of one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from unillm import inspect_model
from unillm.errors import ModelLoadError
from unillm.model.adapters import check_adapter_files, without_adapter
from unillm.model.checkpoint import stored_tensors
from unillm.model.find import find_model

TINY = find_model("unillm/tiny")
CONFIG = {"peft_type": "LORA", "r": 8, "base_model_name_or_path": "some/base"}


@pytest.fixture
def beside(tmp_path):
    """The bundled model with an adapter beside its weights."""
    path = Path(shutil.copytree(TINY, tmp_path / "model"))
    (path / "adapter_config.json").write_text(json.dumps(CONFIG))
    (path / "adapter_model.safetensors").write_bytes(b"never read")
    return path


def test_a_library_sees_a_directory_without_the_adapter(beside):
    seen = without_adapter(beside)

    assert {file.name for file in seen.iterdir()} == {f.name for f in TINY.iterdir()}
    for file in seen.iterdir():
        assert file.read_bytes() == (TINY / file.name).read_bytes()
    assert (beside / "adapter_config.json").exists()


def test_what_a_library_sees_is_removed_when_the_process_ends(beside):
    code = (
        "import sys, pathlib; from unillm.model.adapters import without_adapter; "
        "print(without_adapter(pathlib.Path(sys.argv[1])))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code, beside], capture_output=True, text=True, check=True
    )

    assert shown.stdout.strip() not in ("", str(beside))
    assert not Path(shown.stdout.strip()).exists()
    assert (beside / "model.safetensors").exists()


def test_a_directory_without_an_adapter_is_seen_as_it_is():
    assert without_adapter(TINY) is TINY


def test_an_adapter_beside_a_model_is_named_in_one_warning(beside, caplog):
    check_adapter_files(TINY)
    assert caplog.records == []

    check_adapter_files(beside)

    [record] = caplog.records
    assert "served as its weights stand, without the adapter" in record.getMessage()
    assert f"LoRARequest(name, 1, {str(beside)!r})" in record.getMessage()


def test_its_tensors_are_not_the_models(beside):
    (beside / "model.safetensors").rename(beside / "weights.safetensors")

    assert list(stored_tensors(beside)) == list(stored_tensors(TINY))


@pytest.mark.parametrize("with_config", [True, False], ids=["config.json", "alone"])
def test_an_adapter_in_place_of_a_model_is_refused_with_its_base(beside, with_config):
    (beside / "model.safetensors").unlink()
    if not with_config:
        (beside / "config.json").unlink()

    with pytest.raises(ModelLoadError) as caught:
        inspect_model(beside)

    message = str(caught.value)
    assert "holds an adapter (adapter_config.json) and no weights of a model" in message
    assert "trained on, some/base, with enable_lora=True" in message
