# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import os

import pytest
import torch

from unillm.backend import Finding
from unillm.cli import machine
from unillm.cli.exit_codes import ExitCode
from unillm.testing import conformance
from unillm.testing.backends import ScriptedBackend, plugged
from unillm.testing.conformance import ClauseResult, Outcome
from unillm.testing.scripted import ScriptedEngine


class Assuming(ScriptedBackend):
    """Assumes one thing, which holds unless its option says otherwise."""

    option_names = frozenset({"holds"})

    def examine(self, config):
        yield Finding(
            assumption="The sky is blue",
            source="a window",
            held=config.backend_options.get("holds", True),
            detail="it was looked at",
        )


@pytest.fixture(autouse=True)
def backend():
    with plugged(Assuming(ScriptedEngine, name="assuming")):
        yield


@pytest.fixture
def run(contract):
    """Make a run of the contract return one clause of *outcome*; return its arguments."""
    return lambda outcome: contract(
        ClauseResult(number="E1", statement="All end.", outcome=outcome)
    )


def doctor(cli, *arguments):
    return cli("doctor", "--contract", "--backend", "assuming", *arguments)


def test_the_environment_is_reported_without_secrets_and_without_an_engine(
    cli, monkeypatch
):
    monkeypatch.setenv("HF_TOKEN", "hf_abc")
    monkeypatch.setenv("UNILLM_API_KEY", "sk-abc")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:abc@proxy:80")
    monkeypatch.setenv("UNILLM_BACKEND", "assuming")

    shown = cli("doctor")
    report = json.loads(cli("doctor", "--json").stdout)

    assert shown.exit_code == ExitCode.OK
    assert "abc" not in shown.stdout + json.dumps(report)
    assert report["variables"]["HF_TOKEN"] == "set, not shown"
    assert report["variables"]["HTTPS_PROXY"] == "http://…@proxy:80"
    assert report["variables"]["UNILLM_BACKEND"] == "assuming"
    assert report["packages"]["torch"] == torch.__version__
    assert report["backends"]["assuming"].startswith("available")
    assert "settings.json" in report["folders"]["settings"]
    for section in report:
        assert f"{section}\n" in shown.stdout


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("HTTPS_PROXY", "me:abc@proxy:80", "…@proxy:80"),
        ("ALL_PROXY", "socks5://me:a/bc@proxy:80", "socks5://…@proxy:80"),
        ("HF_ENDPOINT", "https://hub/x?token=abc&v=1", "https://hub/x?token=…&v=1"),
        ("UNILLM_MORE", "api_key=abc, n=1", "api_key=…, n=1"),
        ("VLLM_MORE", '{"api_key": "abc", "n": 1}', '{"api_key": "…", "n": 1}'),
        ("XDG_SESSION_COOKIE", "abc", "set, not shown"),
        ("PYTHONPATH", "/opt/token:/opt/a@1:/b", "/opt/token:/opt/a@1:/b"),
        ("TOKENIZERS_PARALLELISM", "false", "false"),
    ],
)
def test_a_secret_inside_a_value_is_not_shown(name, value, shown):
    assert dict(machine.variables({name: value})) == {name: shown}


def test_devices_are_those_of_nvidias_program(monkeypatch, tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\necho '0, NVIDIA H100, 81559 MiB, 80000 MiB, 550, 9.0'"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    assert machine.facts()["devices"] == {
        "GPU 0": "NVIDIA H100, memory 81559 MiB, free 80000 MiB, driver 550, "
        "compute capability 9.0"
    }


def test_assumptions_and_clauses_are_shown_one_by_one(cli, run):
    run(Outcome.PASSED)

    shown = doctor(cli)

    assert shown.exit_code == ExitCode.OK
    assert [line.strip() for line in shown.stdout.splitlines()][-3:] == [
        "held  The sky is blue",
        "it was looked at  [a window]",
        "held  E1: All end.",
    ]


@pytest.mark.parametrize(
    ("holds", "outcome", "code"),
    [
        ("false", Outcome.FAILED, ExitCode.REQUESTS_FAILED),
        ("true", Outcome.FAILED, ExitCode.NONCONFORMING),
        ("null", Outcome.WAIVED, ExitCode.OK),
    ],
    ids=["assumption", "clause", "open and waived"],
)
def test_a_failed_assumption_or_clause_has_an_exit_code(cli, run, holds, outcome, code):
    run(outcome)

    shown = doctor(cli, "--option", f"holds={holds}")

    assert shown.exit_code == code


def test_json_has_assumptions_and_clauses(cli, run):
    run(Outcome.FAILED)

    report = json.loads(doctor(cli, "--json").stdout)

    assert [each["assumption"] for each in report["findings"]] == ["The sky is blue"]
    assert [each["number"] for each in report["contract"]["clauses"]] == ["E1"]
    assert report["contract"]["conforms"] is False


def test_the_clauses_are_the_core_under_the_same_options(cli, run):
    asked = run(Outcome.PASSED)

    doctor(cli, "--dtype", "float16", "--max-num-seqs", "8", "--option", "holds=true")

    assert asked["backend"] == "assuming"
    assert asked["core"] is True
    assert asked["options"] == {
        "dtype": "float16",
        "max_num_seqs": 8,
        "backend_options": {"holds": True},
    }


def test_an_option_that_the_backend_does_not_have_is_refused(cli, run):
    run(Outcome.PASSED)

    shown = doctor(cli, "--option", "hold=true")

    assert shown.exit_code == ExitCode.USAGE
    assert "Did you mean 'holds'" in shown.stderr


def test_without_pytest_it_says_what_to_install(cli, monkeypatch):
    monkeypatch.setattr(conformance, "find_spec", lambda name: None)

    shown = doctor(cli)

    assert shown.exit_code == ExitCode.USAGE
    assert "[testing]" in shown.stderr
    assert shown.stdout == ""
