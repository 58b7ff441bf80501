# SPDX-License-Identifier: Apache-2.0

"""Jobs that are killed, starved or cut off give the output of an undisturbed one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import unillm

SRC = Path(unillm.__file__).parents[1]


@pytest.fixture
def crashes(tmp_path):
    """Run ``crashes.py`` in a process of its own; return what it prints."""

    def run(kind, *arguments, timeout=3600):
        script = Path(__file__).with_name("crashes.py")
        found = subprocess.run(
            [sys.executable, script, kind, tmp_path, *map(str, arguments)],
            env={"PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert found.returncode == 0, found.stderr[-3000:]
        return json.loads(found.stdout)

    return run


@pytest.mark.parametrize("order", [[], ["--any-order"]], ids=["in order", "any order"])
def test_a_job_survives_its_end_before_each_call_that_changes_a_file(crashes, order):
    """By SIGKILL, and by a power cut that takes what was not synced."""
    found = crashes("calls", "--lines", 12, *order)

    assert {"write", "fdatasync", "replace", "ftruncate"} <= set(found["outcomes"])


def test_a_job_survives_kills_signals_and_a_full_disk(crashes):
    found = crashes(
        *("moments", "--lines", 800, "--times", 4, "--faults", "kill", "term", "full")
    )

    assert sum(found["outcomes"].values()) == 4
    assert set(found["outcomes"]) != {"finished"}


@pytest.mark.large
@pytest.mark.parametrize("order", [[], ["--any-order"]], ids=["in order", "any order"])
@pytest.mark.parametrize("fault", ["kill", "term", "full"])
def test_ten_thousand_lines_survive_fifty_faults(crashes, fault, order):
    found = crashes(
        *("moments", "--lines", 10_000, "--times", 50, "--faults", fault, *order)
    )

    assert sum(found["outcomes"].values()) == 50
    assert found["outcomes"].get(fault, 0) >= 25


@pytest.mark.large
def test_the_bundled_model_on_transformers_survives_kills(crashes):
    found = crashes(
        *("moments", "--lines", 1000, "--times", 10, "--faults", "kill", "term"),
        *("--model-backend", "transformers"),
    )

    assert set(found["outcomes"]) & {"kill", "term"}
