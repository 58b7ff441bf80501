# SPDX-License-Identifier: Apache-2.0

"""Teach the bundled model a sentence as an adapter, and serve both side by side."""

from __future__ import annotations

import tempfile

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from unillm import Generator, LoRARequest, SamplingParams
from unillm.model.find import find_model

PROMPT = "What do you say?"
ANSWER = " Hello from the adapter."


def train(path: str) -> None:
    """Fit a LoRA adapter to one answer, and save it."""
    torch.manual_seed(0)
    model = find_model("unillm/tiny")
    tokenizer = AutoTokenizer.from_pretrained(model)
    adapted = get_peft_model(
        AutoModelForCausalLM.from_pretrained(model),
        LoraConfig(
            r=8, lora_alpha=16, target_modules=["q_proj", "v_proj", "down_proj"]
        ),
    )
    prompt = tokenizer(PROMPT)["input_ids"]
    answer = tokenizer(ANSWER, add_special_tokens=False)["input_ids"]
    ids = torch.tensor([[*prompt, *answer, tokenizer.eos_token_id]])
    labels = ids.clone()
    labels[0, : len(prompt)] = -100  # the prompt is not learnt
    optimizer = torch.optim.AdamW(adapted.parameters(), lr=1e-2)
    for _ in range(40):
        adapted(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    adapted.save_pretrained(path)


def main() -> None:
    """Ask the model alone, and with its adapter."""
    greedy = SamplingParams(temperature=0, max_tokens=40)
    with tempfile.TemporaryDirectory() as directory:
        train(directory)
        adapter = LoRARequest("hello", 1, directory)
        with Generator("unillm/tiny", enable_lora=True) as generator:
            # One call, one batch: each prompt has its own adapter or none.
            plain, adapted = generator.generate(
                ["Add 17 and 25:", PROMPT], greedy, lora_request=[None, adapter]
            )
    print("the model:", plain.text)
    print("with the adapter:", adapted.text.strip())


if __name__ == "__main__":
    main()
