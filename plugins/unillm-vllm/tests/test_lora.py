# SPDX-License-Identifier: Apache-2.0

"""Adapters on real vLLM, compared with peft's on the embedded backend."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from unillm import Generator, LoRARequest, SamplingParams
from unillm.backend import find_model
from unillm.errors import InvalidParameterError

PROMPTS = ["Count from 3 to 9:", "Spell: house", "qwerty zxc %%"]
GREEDY = SamplingParams(temperature=0, max_tokens=30, ignore_eos=True)


def save_adapter(folder, *, seed: int):
    """Save an adapter with weights that change the answers of the model."""
    model = AutoModelForCausalLM.from_pretrained(find_model("unillm/tiny"))
    config = LoraConfig(
        r=8, lora_alpha=16, target_modules=["q_proj", "v_proj", "o_proj", "up_proj"]
    )
    adapted = get_peft_model(model, config)
    torch.manual_seed(seed)
    for name, weight in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.2)
    adapted.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    return [
        LoRARequest(f"adapter {n}", n, save_adapter(folder / str(n), seed=n))
        for n in (1, 2)
    ]


@pytest.fixture(scope="module")
def with_lora(tiny_options):
    with Generator(
        "unillm/tiny", enable_lora=True, max_loras=2, max_lora_rank=8, **tiny_options
    ) as generator:
        yield generator


def test_each_request_of_a_step_has_its_own_adapter(with_lora, adapters):
    prompts = [prompt for prompt in PROMPTS for _ in range(3)]
    mixed = [None, *adapters] * len(PROMPTS)

    ours = with_lora.generate(prompts, GREEDY, lora_request=mixed)
    with Generator(
        "unillm/tiny", backend="transformers", dtype="float32", enable_lora=True
    ) as embedded:
        theirs = embedded.generate(prompts, GREEDY, lora_request=mixed)

    assert [o.token_ids for o in ours] == [o.token_ids for o in theirs]
    assert len({tuple(output.token_ids) for output in ours[-3:]}) == 3


def test_an_adapter_that_vllm_cannot_load_fails_its_request_alone(
    with_lora, adapters, tmp_path
):
    """The file of its weights is truncated."""
    folder = save_adapter(tmp_path / "adapter", seed=3)
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    broken = LoRARequest("broken", 9, folder)

    wrong, right = with_lora.generate(
        PROMPTS[:2], GREEDY, lora_request=[broken, adapters[0]], on_error="return"
    )

    assert isinstance(wrong, InvalidParameterError)
    assert "cannot load the adapter 'broken'" in str(wrong)
    assert len(right.token_ids) == 30


def test_an_adapter_beside_the_weights_is_not_applied(tmp_path, tiny_options):
    """vLLM alone takes the adapter's tensors for the model's, and fails."""
    model = Path(shutil.copytree(find_model("unillm/tiny"), tmp_path / "model"))
    save_adapter(tmp_path / "adapter", seed=1)
    for file in (tmp_path / "adapter").glob("adapter_*"):
        shutil.copy(file, model)

    with Generator(model, max_num_seqs=4, **tiny_options) as generator:
        [output] = generator.generate("Add 17 and 25:", GREEDY)

    assert output.text.startswith("42")
