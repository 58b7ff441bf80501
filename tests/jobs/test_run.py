# SPDX-License-Identifier: Apache-2.0

"""Jobs with a scripted worker: order, resuming, refusals and errors of lines."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import attrs
import pytest

from unillm import run_batch
from unillm.errors import (
    BatchInputError,
    BatchMismatchError,
    BatchRunningError,
    ConfigError,
    EngineDeadError,
    ModelNotFoundError,
)
from unillm.jobs import progress
from unillm.jobs.folder import JobFolder
from unillm.jobs.status import job_status


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out.jsonl"


def test_each_line_of_a_batch_has_its_answer_in_order(
    scripted, batch_line, given, rows_of, output
):
    path = given(*(batch_line(f"r{n}", f"prompt {n}") for n in range(10)))

    report = run_batch(path, output, scripted(last_first=True))

    rows = rows_of(output)
    assert [row["custom_id"] for row in rows] == [f"r{n}" for n in range(10)]
    texts = [row["response"]["body"]["text"] for row in rows]
    assert texts == [f"PROMPT {n}" for n in range(10)]
    assert {row["response"]["status_code"] for row in rows} == {200}
    assert all(row["error"] is None for row in rows)
    assert (report.num_lines, report.num_failed) == (10, 0)
    assert (report.num_prompt_tokens, report.num_generated_tokens) == (30, 20)


def test_lines_in_any_order_are_written_as_they_end(
    scripted, batch_line, given, rows_of, output
):
    path = given(*(batch_line(f"r{n}", "p") for n in range(4)))

    run_batch(path, output, scripted(last_first=True), any_order=True)

    assert [row["custom_id"] for row in rows_of(output)] == ["r3", "r2", "r1", "r0"]


def test_a_job_goes_on_where_its_engine_died(
    scripted, batch_line, given, rows_of, output
):
    path = given(*(batch_line(f"r{n}", f"p{n}") for n in range(20)))
    first, second = scripted(dies_after=7), scripted()

    with pytest.raises(EngineDeadError):
        run_batch(path, output, first)
    status = job_status(output)
    report = run_batch(path, output, second)

    assert (status.num_done, status.finished, status.running) == (7, False, None)
    assert [line.index for line in second.submitted] == list(range(7, 20))
    assert [row["custom_id"] for row in rows_of(output)] == [f"r{n}" for n in range(20)]
    assert report.num_resumed == 7
    assert job_status(output).finished
    assert (first.closed, second.closed) == (1, 1)


def test_the_folder_of_a_job_is_on_the_disk_before_its_lines(
    scripted, batch_line, given, output, monkeypatch
):
    path = given(batch_line("a", "p"))
    synced, sync = [], os.fsync

    def note(descriptor):
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    worker = scripted()
    worker.open = lambda: synced.append("the model is loaded")

    run_batch(path, output, worker)

    assert output.parent in synced[: synced.index("the model is loaded")]


def test_an_interrupted_job_gives_the_bytes_of_an_undisturbed_one(
    scripted, batch_line, given, tmp_path
):
    path = given(*(batch_line(f"r{n}", f"p{n}") for n in range(20)))
    whole, parts = tmp_path / "whole.jsonl", tmp_path / "parts.jsonl"
    run_batch(path, whole, scripted())
    for _ in range(5):
        with pytest.raises(EngineDeadError):
            run_batch(path, parts, scripted(dies_after=3))

    run_batch(path, parts, scripted())

    assert parts.read_bytes() == whole.read_bytes()


def test_a_finished_job_is_not_done_again(scripted, batch_line, given, output):
    path = given(batch_line("a", "p"))
    run_batch(path, output, scripted())
    worker = scripted()

    report = run_batch(path, output, worker)

    assert worker.opened == 0
    assert (report.num_lines, report.num_resumed) == (1, 1)


def test_an_output_that_was_taken_away_is_made_again(
    scripted, batch_line, given, output
):
    path = given(batch_line("a", "p"))
    run_batch(path, output, scripted())
    output.unlink()

    report = run_batch(path, output, scripted())

    assert report.num_resumed == 0
    assert output.exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"identity": {"model": "another"}}, "model: scripted → another"),
        ({"params": {"max_tokens": 9}}, "fields: max_tokens: none → 9"),
        ({"lines": 3}, "input:"),
    ],
    ids=["model", "params", "input"],
)
def test_another_job_on_the_same_output_is_refused(
    scripted, batch_line, given, output, change, named
):
    path = given(*(batch_line(f"r{n}", "p") for n in range(5)))
    with pytest.raises(EngineDeadError):
        run_batch(path, output, scripted(dies_after=2))
    if "lines" in change:
        given(*(batch_line(f"r{n}", "p") for n in range(3)))
    worker = scripted(identity=change.get("identity"))

    with pytest.raises(BatchMismatchError) as caught:
        run_batch(path, output, worker, params=change.get("params"))

    assert named in str(caught.value)
    assert worker.opened == 0
    run_batch(path, output, worker, params=change.get("params"), restart=True)
    assert len(worker.submitted) == change.get("lines", 5)


def test_a_file_that_belongs_to_no_job_is_not_overwritten(
    scripted, batch_line, given, output
):
    path = given(batch_line("a", "p"))
    output.write_text("mine")

    with pytest.raises(BatchMismatchError, match="belongs to no job"):
        run_batch(path, output, scripted())

    assert output.read_text() == "mine"


def test_a_second_process_is_refused_by_the_name_of_the_first(
    scripted, batch_line, given, output
):
    path = given(batch_line("a", "p"))
    with JobFolder(output).locked(), pytest.raises(BatchRunningError, match="process"):
        run_batch(path, output, scripted())


def test_a_bad_line_fails_alone(scripted, batch_line, given, rows_of, output, caplog):
    path = given(
        batch_line("good", "p"),
        "{broken",
        '{"custom_id": 5, "url": "/v1/completions", "body": {}}',
        '{"custom_id": "no url", "body": {}}',
        "",
        batch_line("bad", "fail"),
    )

    report = run_batch(path, output, scripted())

    rows = rows_of(output)
    assert [row["custom_id"] for row in rows] == ["good", None, None, "no url", "bad"]
    assert [row["error"] and row["error"]["code"] for row in rows] == [
        None,
        "invalid_json_line",
        "invalid_line",
        "invalid_line",
        None,
    ]
    assert rows[1]["error"]["message"].startswith("in.jsonl, line 2: ")
    assert rows[4]["response"]["status_code"] == 500
    assert report.num_failed == 4
    assert "3 lines are not requests and will fail:\n  in.jsonl, line 2:" in caplog.text
    assert report.failed.read_text() == "".join(
        f"{line}\n" for line in path.read_text().splitlines()[1:] if line
    )


def test_failed_lines_are_answered_again_on_request(
    scripted, batch_line, given, rows_of, output, folder_of
):
    path = given(*(batch_line(f"r{n}", "fail" if n == 2 else "p") for n in range(4)))
    run_batch(path, output, scripted())
    worker = scripted()

    report = run_batch(path, output, worker, retry_failed=True)

    assert [line.index for line in worker.submitted] == [2]
    assert [row["custom_id"] for row in rows_of(output)] == ["r0", "r1", "r2", "r3"]
    assert (report.num_resumed, report.num_failed) == (3, 1)
    assert folder_of(output) == {"job.json", "lock", "lines", "index"}


def test_the_file_of_failed_lines_can_be_an_input(
    scripted, batch_line, given, output, tmp_path
):
    path = given(batch_line("a", "fail"), batch_line("b", "p"))
    first = run_batch(path, output, scripted())

    second = run_batch(first.failed, tmp_path / "again.jsonl", scripted())

    assert (second.num_lines, second.num_failed) == (1, 1)


def test_the_file_of_failed_lines_is_not_replaced_while_it_is_the_input(
    scripted, batch_line, given, output
):
    path = given(batch_line("a", "fail"), batch_line("b", "p"))
    failed = run_batch(path, output, scripted()).failed
    before = failed.read_bytes()

    with pytest.raises(ConfigError, match=r"out\.failed\.jsonl is the input"):
        run_batch(failed, output, scripted(), restart=True)

    assert failed.read_bytes() == before


def test_seconds_leave_out_the_loading_of_the_model(
    scripted, batch_line, given, output, monkeypatch
):
    now = 1000.0
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr(progress, "time", clock)
    worker = scripted()

    def load():
        nonlocal now
        now += 60

    worker.open = load

    report = run_batch(given(batch_line("a", "p")), output, worker)

    assert report.seconds == 0


def test_one_id_on_several_lines_is_refused_before_the_engine_is_made(
    scripted, batch_line, given, output
):
    path = given(*(batch_line(name, "p") for name in ("a", "b", "a", "c", "b")))
    worker = scripted()

    with pytest.raises(BatchInputError) as caught:
        run_batch(path, output, worker)

    assert "in.jsonl, line 3 has 'a' of in.jsonl, line 1" in str(caught.value)
    assert "in.jsonl, line 5 has 'b' of in.jsonl, line 2" in str(caught.value)
    assert worker.opened == 0


def test_rows_keep_their_columns(scripted, given, rows_of, output):
    path = given('{"prompt": "a b", "id": 7}', '"only text"', '{"id": 8}', "[1]")

    report = run_batch(path, output, scripted())

    rows = rows_of(output)
    assert rows[0] == {
        "prompt": "a b",
        "id": 7,
        "generated_text": "A B",
        "finish_reason": "stop",
        "num_prompt_tokens": 3,
        "num_generated_tokens": 2,
        "error": None,
    }
    assert rows[1]["generated_text"] == "ONLY TEXT"
    assert rows[2]["id"] == 8
    assert "has none of them" in rows[2]["error"]
    assert rows[3]["generated_text"] is None
    assert report.num_failed == 2


def test_a_template_makes_prompts_of_the_chosen_columns(
    scripted, given, rows_of, output
):
    path = given('{"question": "why", "n": "no count", "id": 1}', '{"id": 2}')
    worker = scripted()

    run_batch(
        path,
        output,
        worker,
        prompt_template="Q: {{ question | trim }}",
        columns=["question", "id"],
        chat=True,
        system="Be brief.",
    )

    body = json.loads(worker.submitted[0].body)
    assert body == {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Q: why"},
        ]
    }
    rows = rows_of(output)
    assert rows[0]["generated_text"] == "Q: WHY"
    assert "n" not in rows[0]
    assert "'question' is undefined" in rows[1]["error"]


def test_a_template_cannot_leave_its_sandbox(scripted, given, rows_of, output):
    path = given('{"a": "x"}')

    run_batch(path, output, scripted(), prompt_template="{{ a.__class__.__mro__ }}")

    assert "unsafe" in rows_of(output)[0]["error"]


def test_fields_of_the_job_count_where_a_line_lacks_them(
    scripted, batch_line, given, output
):
    path = given(batch_line("a", "p"), batch_line("b", "p", temperature=1))
    worker = scripted()
    schema = {"type": "object"}

    run_batch(path, output, worker, params={"temperature": 0}, output_schema=schema)

    bodies = [json.loads(line.body) for line in worker.submitted]
    assert [body["temperature"] for body in bodies] == [0, 1]
    assert {body["response_format"]["type"] for body in bodies} == {"json_schema"}


def test_the_lines_under_way_are_limited(scripted, batch_line, given, output):
    path = given(*(batch_line(f"r{n}", "p") for n in range(50)))
    worker = scripted(capacity=3)

    run_batch(path, output, worker)

    assert worker.most_under_way == 3


def test_the_output_has_the_form_of_the_input(scripted, batch_line, given, tmp_path):
    path = given(batch_line("a", "p"))

    with pytest.raises(ConfigError, match="has the form of the input"):
        run_batch(path, tmp_path / "out.csv", scripted())
    with pytest.raises(ConfigError, match="is the input"):
        run_batch(path, path, scripted())


def test_the_progress_bar_shows_lines_failures_and_slots(
    scripted, batch_line, given, output, capsys, monkeypatch
):
    monkeypatch.setattr(progress, "REFRESH_S", 0)
    path = given(*(batch_line(f"r{n}", "fail" if n == 1 else "p") for n in range(9)))

    run_batch(path, output, scripted(), use_tqdm=True)

    shown = capsys.readouterr().err
    assert "9/9" in shown
    assert "0/4 slots, 1 failed" in shown


def test_an_output_without_its_name_is_not_taken_for_finished(
    scripted, batch_line, given, output
):
    """A process ended before the new output replaced an old one of the same size."""
    path = given(batch_line("a", "fail"), batch_line("b", "p"))
    run_batch(path, output, scripted())
    folder = JobFolder(output)
    record = folder.read()
    folder.write(attrs.evolve(record, finished=False))
    (folder.path / record.moved_from).write_text("the new one")
    output.write_bytes(output.read_bytes().replace(b"it failed", b"an error "))

    run_batch(path, output, scripted())

    assert b"it failed" in output.read_bytes()
    assert folder.read().finished


def test_an_error_of_a_worker_is_not_one_of_the_disk(
    scripted, batch_line, given, output
):
    path = given(batch_line("a", "p"))
    worker = scripted()

    def fail():
        raise ModelNotFoundError("the model is gone")

    worker.open = fail

    with pytest.raises(ModelNotFoundError, match="is gone"):
        run_batch(path, output, worker, deduplicate=True)
