# SPDX-License-Identifier: Apache-2.0

"""Equal greedy lines are answered once, on request."""

from __future__ import annotations

import csv
import io

import pytest

from unillm import run_batch
from unillm.errors import EngineDeadError
from unillm.jobs import ids
from unillm.jobs.ids import EqualLines


def test_equal_greedy_lines_have_one_answer_with_their_own_ids(
    scripted, batch_line, given, rows_of, tmp_path
):
    prompts = ["a", "b", "a", "fail", "a", "fail"]
    path = given(
        *(batch_line(f"r{n}", p, temperature=0) for n, p in enumerate(prompts)),
        batch_line("drawn", "a", temperature=1),
        batch_line("drawn again", "a", temperature=1),
        "{broken",
    )
    worker = scripted()

    report = run_batch(path, tmp_path / "out.jsonl", worker, deduplicate=True)

    rows = rows_of(tmp_path / "out.jsonl")
    assert [line.index for line in worker.submitted] == [0, 1, 3, 6, 7]
    assert [row["custom_id"] for row in rows][:3] == ["r0", "r1", "r2"]
    bodies = [row["response"]["body"] for row in rows[:5]]
    assert [body.get("text") for body in bodies] == ["A", "B", "A", None, "A"]
    assert bodies[2]["id"] == rows[2]["response"]["request_id"]
    assert bodies[2]["id"] != bodies[0]["id"]
    assert rows[5]["response"]["status_code"] == 500
    assert (report.num_lines, report.num_copied, report.num_failed) == (9, 3, 3)


@pytest.mark.parametrize("deduplicate", [False, True])
def test_the_output_is_that_of_a_job_without_it(
    scripted, given, rows_of, tmp_path, deduplicate
):
    path = given(*(f'{{"prompt": "p{n % 3}", "id": {n}}}' for n in range(30)))
    output = tmp_path / "out.jsonl"
    params = {"temperature": 0}

    with pytest.raises(EngineDeadError):
        run_batch(path, output, scripted(dies_after=2), params=params)
    run_batch(path, output, scripted(), params=params, deduplicate=deduplicate)

    rows = rows_of(output)
    assert [row["id"] for row in rows] == list(range(30))
    assert [row["generated_text"] for row in rows] == [f"P{n % 3}" for n in range(30)]


def test_rows_of_a_table_are_answered_once(scripted, given, tmp_path):
    path = given("prompt,id,temperature", "a,1,0", "a,2,0", name="in.csv")
    worker = scripted()

    run_batch(path, tmp_path / "out.csv", worker, deduplicate=True)

    rows = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text())))
    assert [(row["id"], row["generated_text"]) for row in rows] == [
        ("1", "A"),
        ("2", "A"),
    ]
    assert len(worker.submitted) == 1


@pytest.mark.parametrize("buffered", [16384, 48], ids=["in memory", "in files"])
def test_equal_keys_are_found_among_many(tmp_path, monkeypatch, buffered):
    monkeypatch.setattr(ids, "BUFFER_BYTES", buffered)
    equal = EqualLines(tmp_path)
    for index in range(5000):
        equal.add(index, b"%d" % (index % 4990))

    pairs = sorted(equal.pairs())
    equal.close()

    assert pairs == [(index, index + 4990) for index in range(10)]
    assert list(tmp_path.iterdir()) == []
