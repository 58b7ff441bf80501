# SPDX-License-Identifier: Apache-2.0

"""Conversions that cannot be compared, and caches that cannot be made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from unillm_ctranslate2 import _conversion

from unillm import Generator, SamplingParams
from unillm.backend import find_model
from unillm.errors import (
    ConfigError,
    EngineBuildError,
    ModelLoadError,
    UnsupportedModelError,
)

FLOAT32 = {"backend": "ctranslate2", "dtype": "float32"}


@pytest.fixture
def model(tmp_path):
    """Return a copy of the bundled model."""
    return Path(shutil.copytree(find_model("unillm/tiny"), tmp_path / "model"))


def edit(file: Path, **changes) -> None:
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | changes))


def change_tensors(model: Path, change) -> None:
    file = model / "model.safetensors"
    tensors = safetensors.torch.load_file(file)
    change(tensors)
    safetensors.torch.save_file(tensors, file, metadata={"format": "pt"})


# ---------------------------------------------------------------------------- numbers


def test_a_model_that_computes_no_numbers_is_refused_with_the_cause(model):
    change_tensors(model, lambda tensors: tensors["model.norm.weight"].fill_(torch.nan))

    with pytest.raises(ModelLoadError, match="NaN or infinite") as caught:
        Generator(model, **FLOAT32)

    assert "nan%" not in str(caught.value)


@pytest.mark.parametrize("fill", [np.nan, np.inf])
def test_a_conversion_that_computes_no_numbers_is_named(monkeypatch, model, fill):
    found = _conversion._logits_of_converted  # noqa: SLF001

    def broken(*args):
        return np.full_like(found(*args), fill)

    monkeypatch.setattr(_conversion, "_logits_of_converted", broken)
    change_tensors(model, lambda tensors: tensors["model.norm.weight"].mul_(1.5))

    with (
        np.errstate(invalid="ignore"),
        pytest.raises(UnsupportedModelError, match="are not finite") as caught,
    ):
        Generator(model, **FLOAT32)

    assert "%" not in str(caught.value)


def test_equal_logits_have_no_distance():
    assert _conversion.distance(np.ones((2, 3)), np.ones((2, 3))) == 0


# ------------------------------------------------------------------------------ places


def test_a_tensor_without_a_place_is_refused(model):
    bias = torch.ones(128)
    change_tensors(
        model,
        lambda tensors: tensors.update({"model.layers.0.self_attn.q_proj.bias": bias}),
    )

    with pytest.raises(ModelLoadError, match=r"without a place .*q_proj\.bias"):
        Generator(model, **FLOAT32)


@pytest.mark.parametrize("key", ["quantization_config", "compression_config"])
def test_quantised_weights_are_refused_under_both_keys(model, key):
    edit(model / "config.json", **{key: {"quant_method": "compressed-tensors"}})

    with pytest.raises(UnsupportedModelError, match="quantised already"):
        Generator(model, **FLOAT32)


def test_linear_scaling_extends_the_context(model):
    edit(
        model / "config.json",
        rope_scaling={"type": "linear", "factor": 2.0},
        max_position_embeddings=64,
    )
    prompt = [1 + number % 250 for number in range(100)]
    tokens = {}
    for backend in ("ctranslate2", "transformers"):
        options = {"dtype": "float32", "max_num_seqs": 2}
        with Generator(model, backend=backend, **options) as generator:
            assert generator.limits.max_model_len == 128
            params = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True)
            [output] = generator.generate({"prompt_token_ids": prompt}, params)
            tokens[backend] = output.outputs[0].token_ids

    assert tokens["ctranslate2"] == tokens["transformers"]


# ------------------------------------------------------------------------------- cache


@pytest.mark.parametrize("name", ["file", "file/below", "/proc/none", "long"])
def test_a_cache_folder_that_cannot_be_made_is_named(tmp_path, monkeypatch, name):
    (tmp_path / "file").write_text("a file")
    folder = tmp_path / (name if name != "long" else "x" * 300)
    monkeypatch.setenv("UNILLM_CACHE", str(folder))

    with pytest.raises(EngineBuildError) as caught:
        Generator("unillm/tiny", **FLOAT32)

    message = str(caught.value)
    assert f"The cache folder {folder} cannot be made or written" in message
    assert "Set UNILLM_CACHE to" in message


def test_a_cache_folder_of_a_user_without_a_home_is_named(monkeypatch):
    monkeypatch.setenv("UNILLM_CACHE", "~no-such-user/cache")

    with pytest.raises(ConfigError, match=r"~no-such-user/cache cannot .*Set UNILLM_C"):
        Generator("unillm/tiny", **FLOAT32)
