# SPDX-License-Identifier: Apache-2.0

"""lm-eval over both of its APIs, on tasks of local files."""

from __future__ import annotations

import json
from pathlib import Path

import lm_eval
import pytest
from lm_eval.tasks import TaskManager

import unillm

TINY = Path(unillm.__file__).parent / "model/tiny"
GENERATE = """
task: tiny_generate
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 20, temperature: 0}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""
CHOOSE = """
task: tiny_choose
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{label}}}}"
target_delimiter: ""
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


@pytest.fixture
def tasks(tmp_path):
    rows = [
        {
            "question": f"Add {a} and {b}:",
            "answer": str(a + b),
            "choices": [str(a + b + 1), str(a + b), str(a * b + 7)],
            "label": 1,
        }
        for a, b in ((17, 25), (3, 4), (10, 11), (40, 2))
    ]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in (("generate", GENERATE), ("choose", CHOOSE)):
        (tmp_path / f"{name}.yaml").write_text(text.format(data=data))
    return TaskManager(include_path=str(tmp_path), include_defaults=False)


@pytest.mark.parametrize(
    ("model", "path", "names"),
    [
        ("local-completions", "completions", ["tiny_generate", "tiny_choose"]),
        ("local-chat-completions", "chat/completions", ["tiny_generate"]),
    ],
    ids=["completions", "chat"],
)
def test_each_task_is_solved(url, tasks, model, path, names):
    results = lm_eval.simple_evaluate(
        model=model,
        model_args={
            "model": "unillm/tiny",
            "base_url": f"{url}/{path}",
            "tokenizer": str(TINY),
            "tokenized_requests": False,
            "num_concurrent": 2,
        },
        tasks=names,
        task_manager=tasks,
        apply_chat_template=model == "local-chat-completions",
        bootstrap_iters=0,
    )["results"]

    for name in names:
        [score] = [
            value
            for key, value in results[name].items()
            if key.startswith(("exact_match,", "acc,"))
        ]
        assert score == 1.0
