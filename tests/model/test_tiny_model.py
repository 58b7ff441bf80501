# SPDX-License-Identifier: Apache-2.0

"""The bundled model, through the whole library, on questions of a held-out set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unillm import Generator, SamplingParams
from unillm.files import read_json
from unillm.model.checkpoint import read_config
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


def test_the_bundled_model_has_the_shape_of_llama_31():
    path = find_model("unillm/tiny")
    generation = read_json(path, "generation_config.json")

    assert read_config(path)["model_type"] == "llama"
    assert len(generation["eos_token_id"]) == 3
    assert sum(file.stat().st_size for file in path.iterdir()) < 4 * 2**20
