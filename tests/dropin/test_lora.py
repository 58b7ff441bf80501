# SPDX-License-Identifier: Apache-2.0

"""vLLM's examples of adapters (``multilora_offline.py``), with the import changed."""

from __future__ import annotations

import json

import pytest
import torch
from dropin.conftest import BACKEND, OPTIONS
from safetensors.torch import save_file

from unillm import LLM, LoRARequest, SamplingParams
from unillm.model.find import find_model

PROMPTS = ["Count from 3 to 9:", "Add 17 and 25:", "Spell the word apple:"]
GREEDY = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True)
RANK = 8


def save_adapter(path, seed):
    """Write a random adapter that is strong enough to change the text."""
    config = json.loads((find_model("unillm/tiny") / "config.json").read_text())
    hidden = config["hidden_size"]
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        out = config["num_attention_heads"] * config.get(
            "head_dim", hidden // config["num_attention_heads"]
        )
        tensors[f"{name}.lora_A.weight"] = torch.randn(
            RANK, hidden, generator=generator
        )
        tensors[f"{name}.lora_B.weight"] = torch.randn(out, RANK, generator=generator)
    path.mkdir()
    save_file(tensors, path / "adapter_model.safetensors")
    (path / "adapter_config.json").write_text(
        json.dumps(
            {
                "peft_type": "LORA",
                "task_type": "CAUSAL_LM",
                "r": RANK,
                "lora_alpha": 16,
                "target_modules": ["q_proj"],
                "bias": "none",
            }
        )
    )
    return str(path)


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    return [
        LoRARequest(
            f"adapter-{number}", number, save_adapter(folder / str(number), number)
        )
        for number in (1, 2)
    ]


@pytest.fixture(scope="module")
def llm():
    if BACKEND == "transformers":
        pytest.importorskip("peft", reason="the embedded backend needs peft")
    with LLM(
        "unillm/tiny",
        backend=BACKEND,
        enable_lora=True,
        max_loras=2,
        max_lora_rank=RANK,
        max_cpu_loras=2,
        **OPTIONS,
    ) as llm:
        yield llm


def ids(outputs):
    return [output.outputs[0].token_ids for output in outputs]


def alone_and_together(llm, adapters):
    alone = [
        ids(llm.generate(PROMPTS[0], GREEDY, lora_request=each))[0] for each in adapters
    ]
    prompts = [PROMPTS[0]] * len(adapters)
    return alone, ids(llm.generate(prompts, GREEDY, lora_request=adapters))


def test_each_prompt_has_its_own_adapter(llm, adapters):
    alone, together = alone_and_together(llm, adapters)

    assert alone == together
    assert alone[0] != alone[1]


def test_an_output_names_the_adapter_of_its_request(llm, adapters):
    outputs = llm.generate(PROMPTS[:2], GREEDY, lora_request=[adapters[0], None])

    assert [each.lora_request for each in outputs] == [adapters[0], None]
    assert [each.outputs[0].lora_request for each in outputs] == [adapters[0], None]


def test_a_prompt_without_an_adapter_is_not_changed_by_others(llm, adapters):
    alone, together = alone_and_together(llm, [None, *adapters])

    assert alone == together
    assert len({tuple(each) for each in together}) == 3


def test_one_adapter_for_all(llm, adapters):
    one, _ = adapters

    assert ids(llm.generate(PROMPTS, GREEDY, lora_request=one)) == ids(
        llm.generate(PROMPTS, GREEDY, lora_request=[one] * 3)
    )


def test_a_chat_with_an_adapter(llm, adapters):
    conversation = [{"role": "user", "content": PROMPTS[0]}]

    plain = ids(llm.chat(conversation, GREEDY))
    adapted = ids(llm.chat(conversation, GREEDY, lora_request=adapters[0]))

    assert plain != adapted
