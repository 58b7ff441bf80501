# SPDX-License-Identifier: Apache-2.0

"""``unillm bench`` with real processes."""

from __future__ import annotations

import json

import pytest

from unillm.bench import read_report
from unillm.cli.exit_codes import ExitCode

SMALL = ("--prompt-tokens", "8", "--output-tokens", "12", "--warmups", "1")


@pytest.mark.usefixtures("liar")  # its PYTHONPATH
def test_two_sides_get_the_same_work_in_turn(cli, tmp_path):
    result = cli(
        *("bench", "unillm/tiny", "--backend", "transformers", *SMALL),
        *("--dtype", "float32", "--dtype", "bfloat16", "--batch", "4"),
        *("--rounds", "3", "--json"),
    )

    path = tmp_path / "report.json"
    path.write_text(result.stdout)
    report = read_report(path)
    assert [side.label for side in report.sides] == [
        "transformers (dtype=float32)",
        "transformers (dtype=bfloat16)",
    ]
    for found in report.results:
        output = found.figure("output")
        assert output.spread.count == 3
        assert output.spread.median < output.bound
        assert len(found.warmup_s) == 1
        # A busy machine may delay the lines between two processes.
        assert {reason.check for reason in found.reasons} <= {"clock of the side"}
    assert result.exit_code == (ExitCode.OK if report.is_valid else ExitCode.INVALID)
    [pair] = report.pairs
    assert pair.equality.requests == 12
    compared = cli("bench", "compare", path, path)
    assert compared.exit_code == result.exit_code
    assert "transformers (dtype=bfloat16)  batch 4  output" in compared.stdout
    verdicts = {line.split()[-1] for line in compared.stdout.splitlines()[1:]}
    assert verdicts <= {"tie", "INVALID"}


@pytest.mark.usefixtures("liar")
def test_an_engine_that_cannot_be_true_ends_with_9(cli):
    result = cli(
        *("bench", "unillm/tiny", "--backend", "liar", *SMALL, "--rounds", "2"),
        *("--batch", "4", "--json", "--option", "lie=moody"),
    )

    assert result.exit_code == ExitCode.INVALID, result.output
    [found] = json.loads(result.stdout)["results"]
    assert "other continuation" in [reason["check"] for reason in found["reasons"]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--preset", "paper"], "--preset takes article, got 'paper'"),
        (["--lengths", "long"], "--lengths takes fixed or lognormal, got long"),
        (["--rates", "1,fast"], "--rates takes numbers such as 1,2,4"),
        (["--sweep"], "Give the first one with --rates"),
        (["--slo", "speed=1"], "--slo takes pairs of ttft, tpot and e2e"),
        (["--slo", "ttft"], "--slo takes pairs of ttft, tpot and e2e"),
        (["--file", "missing.jsonl"], "--file missing.jsonl cannot be read as JSON"),
        (
            ["--chat-template", "missing"],
            "--chat-template missing cannot be read: No such file",
        ),
        (["--option", "3:a=1"], "is for side 3, and there are 1 sides"),
        (["--backend", "a", "--backend", "a"], "Two sides are the same: a, a"),
        (["--rounds", "0"], "1 sides, 1 cases and 0 rounds"),
        (["--price-per-hour", "0"], "The hour must cost more than 0"),
        (
            [
                *("--backend", "a", "--backend", "b", "--backend", "c"),
                *("--dtype", "x") * 2,
            ],
            "--dtype is given 2 times for 3 sides",
        ),
    ],
)
def test_impossible_work_is_refused_before_a_process_starts(cli, options, message):
    result = cli("bench", "unillm/tiny", *options)

    assert result.exit_code == ExitCode.USAGE
    assert message in " ".join(result.stderr.split())


def test_a_file_that_is_not_a_report_is_refused(cli, tmp_path):
    path = tmp_path / "report.json"
    path.write_text("{}")

    result = cli("bench", "compare", path, path)

    assert result.exit_code == ExitCode.USAGE
    assert "is not a report of `unillm bench`" in result.stderr
