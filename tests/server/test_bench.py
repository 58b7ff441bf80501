# SPDX-License-Identifier: Apache-2.0

"""``unillm bench --url`` against ``unillm serve``."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from unillm.cli.app import app

ENVIRONMENT = {
    "busy client",
    "clock of the side",
    "drifting clock",
    "late client",
    "no time between tokens",  # a slow reader gets longer deltas
}
"""Checks that a busy machine fails."""


def test_a_server_is_measured_by_the_ids_that_it_returns(server):
    result = CliRunner().invoke(
        app,
        [
            *("bench", "unillm/tiny", "--url", server.url, "--json"),
            *("--prompt-tokens", "8", "--output-tokens", "12", "--requests", "6"),
            *("--batch", "3", "--concurrency", "2", "--rates", "50"),
            *("--warmups", "1", "--rounds", "2", "--slo", "e2e=60"),
        ],
    )

    assert result.exit_code in (0, 9), result.output
    report = json.loads(result.stdout)
    cases = {found["case"]["kind"]: found for found in report["results"]}
    assert list(cases) == ["batch", "closed", "open"]
    for found in cases.values():
        assert {reason["check"] for reason in found["reasons"]} <= ENVIRONMENT
        figures = {each["name"]: each for each in found["figures"]}
        of_requests = [12 * value for value in figures["requests"]["values"]]
        assert figures["output"]["values"] == pytest.approx(of_requests)
        assert figures["goodput"]["values"] == figures["requests"]["values"]
        assert not any("own count" in note for note in found["notes"])
        assert {"ttft p50", "tpot p50", "itl p99", "e2e p99"} <= figures.keys()
