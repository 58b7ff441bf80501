# SPDX-License-Identifier: Apache-2.0

"""``unillm bench`` with real processes."""

from __future__ import annotations

import csv
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
        *("--rounds", "3", "--save", str(tmp_path)),
    )

    assert result.exit_code == ExitCode.OK, result.output
    report = read_report(tmp_path / "report.json")
    assert [side.label for side in report.sides] == [
        "transformers (dtype=float32)",
        "transformers (dtype=bfloat16)",
    ]
    for found in report.results:
        output = found.figure("output")
        assert output.spread.count == 3
        assert output.spread.median < output.bound
        assert len(found.warmup_s) == 1
    [pair] = report.pairs
    assert pair.equality.requests == 12
    rows = list(csv.DictReader((tmp_path / "report.csv").read_text().splitlines()))
    assert {row["figure"] for row in rows} >= {"output", "ttft p50", "cpu", "slot use"}
    assert all(row["valid"] == "True" for row in rows)


@pytest.mark.usefixtures("liar")
def test_an_engine_that_cannot_be_true_ends_with_9(cli):
    result = cli(
        *("bench", "unillm/tiny", "--backend", "liar", *SMALL, "--rounds", "2"),
        *("--batch", "4", "--json"),
    )

    assert result.exit_code == ExitCode.INVALID, result.output
    [found] = json.loads(result.stdout)["results"]
    assert "beyond the bound" in [reason["check"] for reason in found["reasons"]]
