# SPDX-License-Identifier: Apache-2.0

"""An adapter beside the weights of a model, which the converter would add to it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from unillm import Generator
from unillm.backend import find_model

LAYER = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize("with_weights", [True, False], ids=["whole", "config alone"])
def test_an_adapter_beside_the_weights_is_not_converted(tmp_path, with_weights):
    """transformers reads it, where peft is installed, and fails without its weights."""
    model = Path(shutil.copytree(find_model("unillm/tiny"), tmp_path / "model"))
    size = json.loads((model / "config.json").read_text())["hidden_size"]
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": 4,
        "lora_alpha": 64,
        "target_modules": ["q_proj"],
        "base_model_name_or_path": "/no/such/model",
    }
    (model / "adapter_config.json").write_text(json.dumps(config))
    if with_weights:
        save_file(
            {
                f"{LAYER}.lora_A.weight": torch.ones(4, size),
                f"{LAYER}.lora_B.weight": torch.ones(size, 4),
            },
            model / "adapter_model.safetensors",
        )

    with Generator(model, backend="ctranslate2", dtype="float32") as generator:
        [output] = generator.generate("Add 17 and 25:")

    assert output.text == "42"
