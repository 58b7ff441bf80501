# SPDX-License-Identifier: Apache-2.0

"""Files of checkpoints and engine directories that are not what they claim.

Every entry path is shown on a version that has it.
"""

from __future__ import annotations

import json
import shutil
from types import MappingProxyType

import pytest
import safetensors.torch
import torch
from conftest import TINY
from trtllm_double import calls

from unillm import Generator
from unillm.testing.files import (
    BrokenFiles,
    holds,
    pipe,
    refused_before_start,
    stacked,
)

STARTS = ("LLM", "build", "ModelRunner.from_dir", "ModelRunnerCpp.from_dir")
"""Calls of the fake that read a model."""


@pytest.fixture(autouse=True)
def _untouched():
    """Show that TensorRT-LLM never saw the directory."""
    calls.clear()
    yield
    assert [name for name in STARTS if calls.of(name)] == []


# ------------------------------------------------------------------------- checkpoints


class _Broken(BrokenFiles):
    __test__ = False
    backend = "tensorrt-llm"
    version: str

    @pytest.fixture(autouse=True)
    def _installed(self, install):
        install(self.version)


class TestPytorch(_Broken):
    __test__ = True
    version = "1.4"


class TestEngine(_Broken):
    __test__ = True
    version = "0.21"


class TestEngineOnRequest(_Broken):
    __test__ = True
    version = "1.2"
    options = MappingProxyType({"backend_options": {"door": "engine"}})


class TestRunner(_Broken):
    __test__ = True
    version = "0.11"


def change_tensors(model, change):
    file = model / "model.safetensors"
    tensors = safetensors.torch.load_file(file)
    change(tensors)
    safetensors.torch.save_file(tensors, file, metadata={"format": "pt"})


_UP = "model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize("version", ["1.4", "0.21", "0.11"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda tensors: tensors.update({f"{_UP}_scale": torch.ones(1)}),
            r"without a place .*up_proj\.weight_scale",
        ),
        (lambda tensors: tensors.pop(_UP), r"missing .*up_proj"),
    ],
    ids=["a scale", "a gap"],
)
def test_tensors_that_do_not_fit_the_config_are_refused_before_they_are_read(
    install, tmp_path, version, change, message
):
    install(version)
    model = tmp_path / "model"
    shutil.copytree(TINY, model)
    change_tensors(model, change)

    with refused_before_start("tensorrt-llm", message):
        Generator(model, backend="tensorrt-llm")


# ---------------------------------------------------------------- the engine directory


def changes(part, **values):
    """Return a change of the ``config.json`` of an engine."""

    def change(path):
        config = json.loads((path / "config.json").read_text())
        target = config[part] if part else config
        target |= values
        (path / "config.json").write_text(json.dumps(config))

    return change


ENGINE_FAULTS = {
    "a pipe as the engine": (pipe("rank0.engine"), r"rank0\.engine is a pipe"),
    "a pipe as its config": (pipe("config.json"), r"config\.json is a pipe"),
    "a pipe as its tokenizer": (pipe("tokenizer.json"), r"tokenizer\.json is a pipe"),
    "nested": (
        holds("config.json", b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
        r"config\.json is nested more than 64",
    ),
    **{
        f"{number} layers": (
            changes("pretrained_config", num_hidden_layers=number),
            rf"config\.json: pretrained_config\.num_hidden_layers .*, got {number}",
        )
        for number in (10**6, 0, -1)
    },
    "a model that is a text": (
        changes("", pretrained_config="a text"),
        r"config\.json: pretrained_config must be an object, got 'a text'",
    ),
    "a build that is a text": (
        changes("", build_config="a text"),
        r"config\.json .*: build_config must be an object, got 'a text'",
    ),
    "plugins that are a list": (
        changes("build_config", plugin_config=[1]),
        r"config\.json .*: build_config\.plugin_config must be an object, got \[1\]",
    ),
    "no vocabulary": (
        changes("pretrained_config", vocab_size=None),
        r"config\.json .*: pretrained_config\.vocab_size must be .*, got None",
    ),
    "a rank that is infinite": (
        changes("pretrained_config", mapping={"tp_size": float("inf")}),
        r"config\.json .*: pretrained_config\.mapping\.tp_size must be .*, got inf",
    ),
    **{
        f"{number} rows": (
            changes("build_config", max_batch_size=number),
            rf"config\.json .*: build_config\.max_batch_size must be .*, got {number}",
        )
        for number in (10**20, 0, -1)
    },
    "a text config that is a text": (
        changes("", text_config="a text"),
        r"config\.json: text_config must be an object, got 'a text'",
    ),
    "stacked normalizers": (
        stacked("normalizer", "normalizers", {"type": "NFC"}, 10_000),
        r"tokenizer\.json: normalizer has 10,000 steps",
    ),
}


@pytest.mark.parametrize(("version", "inflight"), [("1.2", True), ("0.11", False)])
@pytest.mark.parametrize("fault", ENGINE_FAULTS)
def test_an_engine_directory_that_is_none_is_refused_before_it_is_loaded(
    install, engine_at, fault, version, inflight
):
    install(version)
    path = engine_at(inflight=inflight)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY / name, path)
    change, message = ENGINE_FAULTS[fault]
    change(path)

    with refused_before_start("tensorrt-llm", message):
        Generator(path, backend="tensorrt-llm")
