# SPDX-License-Identifier: Apache-2.0

"""The contract on the backends without torch, and its page."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

from unillm.testing.backends import reference_backend
from unillm.testing.contract import BackendContract, clauses_of


def kill(engine):
    """Make every later step fail, as without its process."""

    def step():
        raise ConnectionResetError("the engine's process is gone")

    engine.step = step


class Scripted(BackendContract):
    keep_engine = False
    kill_engine = staticmethod(kill)


class TestSlots(Scripted):
    backend = reference_backend("slots")


class TestRuns(Scripted):
    backend = reference_backend("runs")


class TestContinuous(Scripted):
    backend = reference_backend("continuous")


def test_the_page_lists_the_same_clauses():
    page = (Path(__file__).parents[2] / "docs/reference/contract.md").read_text("utf-8")

    listed = re.findall(r"^- \*\*(\w+)\.\*\* (.+)$", page, re.MULTILINE)

    clauses = clauses_of(BackendContract).values()
    assert {(c.number, c.statement) for c in clauses} == set(listed)
    assert len(clauses) == len(listed)


def test_clauses_are_counted_without_gaps():
    numbers = [clause.number for clause in clauses_of(BackendContract).values()]

    counted = [
        f"{group}{place}"
        for group, members in itertools.groupby(numbers, lambda number: number[0])
        for place, _ in enumerate(members, 1)
    ]
    assert numbers == counted
    assert len(numbers) == len(set(numbers)) >= 80


@pytest.mark.parametrize(
    "module", ["backends", "reference", "scripted", "timeline"], ids=str
)
def test_the_fakes_need_no_pytest_and_no_torch(module):
    code = (
        f"import sys, unillm.testing.{module}\n"
        "print(*{'pytest', 'torch', 'hypothesis'} & set(sys.modules))"
    )

    run = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )

    assert run.stdout.strip() == ""
