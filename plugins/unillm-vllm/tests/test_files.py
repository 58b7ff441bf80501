# SPDX-License-Identifier: Apache-2.0

"""Model directories whose files do not fit together, before and after vLLM starts."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch

from unillm import Generator, SamplingParams
from unillm.backend import find_model, model_positions
from unillm.errors import InvalidParameterError, ModelLoadError
from unillm.testing.files import BrokenFiles, edits

GREEDY = SamplingParams(temperature=0)
PROMPT = "Add 17 and 25:"
OPTIONS = {
    "backend": "vllm",
    "enforce_eager": True,
    "max_num_seqs": 2,
    "backend_options": {"kv_cache_memory_bytes": 64 << 20},
}


@pytest.fixture
def model(tmp_path):
    """Return a copy of the bundled model."""
    return Path(shutil.copytree(find_model("unillm/tiny"), tmp_path / "model"))


class TestVllm(BrokenFiles):
    backend = "vllm"
    options = {"enforce_eager": True}


def change_tensors(model: Path, change) -> None:
    file = model / "model.safetensors"
    tensors = safetensors.torch.load_file(file)
    change(tensors)
    safetensors.torch.save_file(tensors, file, metadata={"format": "pt"})


def adds(name, *shape):
    def change(model):
        change_tensors(model, lambda tensors: tensors.update({name: torch.ones(shape)}))

    return change


def removes(name):
    return lambda model: change_tensors(model, lambda tensors: tensors.pop(name))


def declares(**changes):
    return edits("config.json", **changes)


_UP = "model.layers.1.mlp.up_proj.weight"

FAULTS = {
    "a scale": (adds(f"{_UP}_scale", 1), "without a place .*weight_scale"),
    "a bias": (
        adds("model.layers.0.self_attn.q_proj.bias", 128),
        r"without a place .*q_proj\.bias",
    ),
    "more layers": (declares(num_hidden_layers=3), "declares 3 layers, .* have 4"),
    "a gap": (removes(_UP), r"missing .*up_proj"),
    "smaller": (declares(intermediate_size=96), "by intermediate_size=96"),
    "huge": (declares(intermediate_size=2**22), "by intermediate_size=4194304"),
}
"""Faults that vLLM serves, waits for or names in other words."""


@pytest.mark.parametrize("fault", FAULTS)
def test_files_that_do_not_fit_together_are_refused_before_vllm_starts(model, fault):
    change, message = FAULTS[fault]
    change(model)
    started = time.perf_counter()

    with pytest.raises(ModelLoadError, match=message):
        Generator(model, **OPTIONS)

    assert time.perf_counter() - started < 5 + 30 * (fault == next(iter(FAULTS)))


@pytest.mark.parametrize("kind", ["linear", "dynamic"])
def test_scaling_extends_the_context_as_in_vllm(model, kind):
    declares(rope_scaling={"type": kind, "factor": 2.0})(model)
    edits("generation_config.json", temperature="hot")(model)

    with Generator(model, **OPTIONS) as generator:
        assert generator.limits.max_model_len == 2048
        assert model_positions(model) == 2048
        with pytest.raises(InvalidParameterError, match=r"generation_config\.json"):
            generator.generate(PROMPT)
        assert generator.generate(PROMPT, GREEDY)[0].outputs[0].finish_reason
