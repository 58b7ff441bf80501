# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from unillm import openmp

PROGRAM = """
from unillm import Generator, SamplingParams

with Generator("unillm/tiny") as generator:
    generator.generate("Count from 3 to 9:", SamplingParams(max_tokens=2))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="GNU's OpenMP is Linux's")
@pytest.mark.parametrize(
    ("given", "spins"),
    [
        ({}, openmp.SPINS),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, "0"),
    ],
)
def test_the_engines_openmp_has_the_setting_when_it_is_loaded(given, spins):
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    }
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**environment, "OMP_DISPLAY_ENV": "VERBOSE", **given},
        capture_output=True,
        text=True,
        check=True,
    )

    shown = [line.split("=")[1] for line in run.stderr.splitlines() if "SPIN" in line]
    assert shown
    assert {each.strip(" '") for each in shown} == {spins}


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "nonsense"}, None),
        (
            {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"},
            1.0,
        ),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
    ],
)
def test_a_quota_is_read_from_either_kind_of_control_groups(tmp_path, files, quota):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)

    assert openmp.cpu_quota(tmp_path) == quota


@pytest.mark.parametrize(
    ("given", "quota", "threads"),
    [
        ({}, 1.0, "1"),
        ({}, 1.5, "2"),
        ({}, None, None),
        ({"OMP_NUM_THREADS": "3"}, 1.0, "3"),
    ],
)
def test_a_quota_bounds_the_threads(monkeypatch, given, quota, threads):
    monkeypatch.setattr(os, "environ", dict(given))
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(openmp, "cpu_quota", lambda: quota)

    openmp.share_cores()

    assert os.environ.get("OMP_NUM_THREADS") == threads
