# SPDX-License-Identifier: Apache-2.0

"""The bundled model answers what it was not trained on, through the whole library."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unillm import Generator, SamplingParams
from unillm.model.find import find_model

HELD_OUT = Path(__file__).parents[1] / "data" / "tiny_heldout.jsonl"
GREEDY = SamplingParams(temperature=0, max_tokens=400)


@pytest.mark.slow
def test_at_least_99_percent_of_the_held_out_answers_are_right():
    items = [json.loads(line) for line in HELD_OUT.read_text("utf-8").splitlines()]
    prompts = [
        {"messages": item["messages"]} if "messages" in item else item["prompt"]
        for item in items
    ]
    with Generator("unillm/tiny") as generator:
        outputs = generator.generate(prompts, GREEDY)
        ends = generator.get_tokenizer().convert_ids_to_tokens(
            [output.token_ids[-1] for output in outputs]
        )

    right = [
        output.text == item["answer"]
        and end == ("<|eot_id|>" if "messages" in item else "<|end_of_text|>")
        for item, output, end in zip(items, outputs, ends, strict=True)
    ]
    wrong = [i for i, ok in zip(items, right, strict=True) if not ok]
    assert len(items) >= 300
    assert sum(right) >= 0.99 * len(items), wrong


def test_it_has_llama_31s_shape():
    path = find_model("unillm/tiny")
    config = json.loads((path / "config.json").read_text())
    generation = json.loads((path / "generation_config.json").read_text())

    assert "llama" == config["model_type"]
    assert 3 == len(generation["eos_token_id"])
    assert sum(file.stat().st_size for file in path.iterdir()) < 4 * 2**20
