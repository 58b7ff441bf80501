# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json

import pytest

import unillm
from unillm import BackendStatus


@pytest.fixture
def installed(monkeypatch):
    """Two that can run and two that cannot, in no order."""
    found = [
        BackendStatus(
            name="broken",
            available=False,
            distribution="unillm-broken 0.1",
            reason="libnvinfer.so.10 cannot be loaded",
        ),
        BackendStatus(name="slow", available=True, distribution="core", auto_rank=100),
        BackendStatus(
            name="fast", available=True, distribution="unillm-fast 2", auto_rank=10
        ),
        BackendStatus(
            name="absent",
            available=False,
            distribution="unillm-absent 1",
            auto_rank=50,
            reason="the engine is not installed",
            remedy='pip install "absent[cuda]"',
        ),
    ]
    monkeypatch.setattr(unillm, "backends", lambda **_: found)


def test_the_table_is_in_the_order_of_auto(installed, cli):
    result = cli("backends")

    rows = [line.split() for line in result.stdout.splitlines()[1:5]]
    assert [row[:3] for row in rows] == [
        ["fast", "yes", "1"],
        ["absent", "no", "2"],
        ["slow", "yes", "3"],
        ["broken", "no", "–"],
    ]
    assert result.exit_code == 0


def test_what_is_unavailable_has_its_reason_and_the_command(installed, cli):
    shown = cli("backends").stdout

    assert "absent is not available: the engine is not installed" in shown
    assert 'pip install "absent[cuda]"' in shown
    assert "broken is not available: libnvinfer.so.10 cannot be loaded" in shown


def test_json_has_the_same(installed, cli):
    found = json.loads(cli("backends", "--json").stdout)

    assert [status["name"] for status in found] == ["fast", "absent", "slow", "broken"]
    assert found[1]["remedy"] == 'pip install "absent[cuda]"'


def test_the_embedded_backend_is_there(process):
    result = process("backends", "--json")

    [status] = [s for s in json.loads(result.stdout) if s["name"] == "transformers"]
    assert status["available"] is True
