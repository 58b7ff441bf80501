# SPDX-License-Identifier: Apache-2.0

"""``unillm batch`` over the bundled model."""

from __future__ import annotations

import json

import pytest

from unillm.cli.exit_codes import ExitCode
from unillm.testing.backends import plugged, reference_backend


@pytest.fixture
def batch(cli, tmp_path):
    """Run the command on lines, in this process and on numpy."""

    def run(*arguments, lines=(), output="out.jsonl"):
        (tmp_path / "in.jsonl").write_text(
            "".join(f"{json.dumps(each)}\n" for each in lines)
        )
        files = [tmp_path / "in.jsonl"] if lines else []
        with plugged(reference_backend()):
            return cli(
                *("batch", *files, "-o", tmp_path / output),
                *("--backend", "scripted", *arguments),
            )

    return run


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


LINES = [{"prompt": f"Count from {n} to {n + 2}:", "id": n} for n in range(3)]
GREEDY = ("--temperature", 0, "--max-tokens", 20)


def test_rows_are_answered_and_summarised(batch, tmp_path):
    run = batch(*GREEDY, lines=LINES)

    assert run.exit_code == ExitCode.OK, run.output
    texts = [row["generated_text"] for row in rows(tmp_path / "out.jsonl")]
    assert texts == ["0 1 2", "1 2 3", "2 3 4"]
    assert run.stdout.startswith(f"3 lines in {tmp_path / 'out.jsonl'}.\n")


def test_failed_lines_give_an_exit_code_and_a_file(batch, tmp_path):
    run = batch("--json", *GREEDY, lines=[*LINES, {"id": 9}])

    assert run.exit_code == ExitCode.REQUESTS_FAILED
    report = json.loads(run.stdout)
    assert (report["num_lines"], report["num_failed"]) == (4, 1)
    assert rows(tmp_path / "out.failed.jsonl") == [{"id": 9}]


def test_templates_schemas_and_chats(batch, tmp_path):
    schema = tmp_path / "schema.json"
    schema.write_text('{"enum": ["seven"]}')
    template = "Spell {{ word }}."

    run = batch(
        *("--prompt-template", template, "--columns", "word", "--chat"),
        *("--output-schema", schema, *GREEDY),
        lines=[{"word": "cat", "n": "a count of the data"}],
    )

    assert run.exit_code == ExitCode.OK, run.output
    [row] = rows(tmp_path / "out.jsonl")
    assert (row["word"], row["generated_text"]) == ("cat", '"seven"')
    assert "n" not in row


def test_the_status_needs_no_model(batch):
    batch(*GREEDY, lines=LINES)

    run, as_json = batch("--status"), batch("--status", "--json")

    assert run.stdout.startswith("3 of 3 lines (100.0 %), 0 failed; begun ")
    assert run.stdout.endswith("; finished.\n")
    assert json.loads(as_json.stdout)["finished"] is True
    assert batch("--status", output="no.jsonl").exit_code == ExitCode.USAGE


def test_a_dry_run_counts_and_writes_nothing(batch, tmp_path):
    long = {"prompt": "a " * 5000}

    run = batch("--dry-run", "--json", *GREEDY, lines=[*LINES, long, {"id": 9}])

    assert run.exit_code == ExitCode.OK, run.output
    found = json.loads(run.stdout)
    assert (found["num_lines"], found["num_refused"]) == (5, 2)
    assert found["longest_place"] == "in.jsonl, line 4"
    assert found["longest_prompt"] > found["max_prompt_tokens"]
    assert "at most" in found["refused"][0]
    assert (found["num_sampled"], found["estimated_new_tokens"]) == (3, 18)
    assert {path.name for path in tmp_path.iterdir()} == {"in.jsonl"}


def test_another_job_is_refused_and_restart_replaces_it(batch):
    batch(*GREEDY, lines=LINES)

    refused = batch("--temperature", 1, lines=LINES)
    replaced = batch("--temperature", 1, "--restart", lines=LINES)

    assert refused.exit_code == ExitCode.USAGE
    assert "fields: temperature: 0.0 → 1.0" in refused.stderr
    assert replaced.exit_code == ExitCode.OK


def test_there_must_be_an_input(batch):
    run = batch()

    assert run.exit_code == ExitCode.USAGE
    assert "There is no input" in run.stderr
