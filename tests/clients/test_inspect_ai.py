# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import inspect_ai
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.scorer import match
from inspect_ai.solver import generate


def test_an_evaluation_has_its_accuracy(url, tmp_path, monkeypatch):
    monkeypatch.setenv("UNILLM_API_KEY", "x")
    monkeypatch.setenv("UNILLM_BASE_URL", url)
    samples = [
        Sample(input=f"Add {a} and {b}:", target=str(a + b))
        for a, b in ((17, 25), (3, 4), (10, 11), (40, 2))
    ]
    task = inspect_ai.Task(
        dataset=MemoryDataset(samples), solver=generate(), scorer=match()
    )

    [log] = inspect_ai.eval(
        task,
        model="openai-api/unillm/unillm/tiny",
        temperature=0,
        max_tokens=20,
        log_dir=str(tmp_path),
        display="none",
    )

    assert log.status == "success"
    assert log.results.scores[0].metrics["accuracy"].value == 1.0
