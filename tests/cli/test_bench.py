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

    assert result.exit_code == ExitCode.OK, result.output
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
    [pair] = report.pairs
    assert pair.equality.requests == 12
    compared = cli("bench", "compare", path, path)
    assert compared.exit_code == ExitCode.OK
    assert "transformers (dtype=bfloat16)  batch 4  output" in compared.stdout
    assert {line.split()[-1] for line in compared.stdout.splitlines()[1:]} == {"tie"}


@pytest.mark.usefixtures("liar")
def test_an_engine_that_cannot_be_true_ends_with_9(cli):
    result = cli(
        *("bench", "unillm/tiny", "--backend", "liar", *SMALL, "--rounds", "2"),
        *("--batch", "4", "--json", "--option", "lie=moody"),
    )

    assert result.exit_code == ExitCode.INVALID, result.output
    [found] = json.loads(result.stdout)["results"]
    assert "other continuation" in [reason["check"] for reason in found["reasons"]]
