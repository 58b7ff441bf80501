# SPDX-License-Identifier: Apache-2.0

"""``unillm doctor`` on the fake TensorRT-LLM."""

from __future__ import annotations

import json
import shutil

import pytest
from conftest import TINY
from unillm_tensorrt_llm import TensorRTLLMBackend, _doctor

from unillm.cli import main
from unillm.testing import conformance
from unillm.testing.conformance import Conformance


def doctor(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--backend", "tensorrt-llm", "--json", *arguments])
    return ended.value.code, json.loads(capsys.readouterr().out)


@pytest.fixture
def findings(capsys, monkeypatch):
    """Run the doctor without clauses; return the exit code and the findings."""

    def run_contract(backend, **given):
        return Conformance(backend=backend, distribution="", results=())

    def findings(*arguments):
        monkeypatch.setattr(conformance, "run_contract", run_contract)
        code, report = doctor(capsys, *arguments)
        return code, {each["assumption"]: each for each in report["findings"]}

    return findings


def test_the_doctor_runs_the_clauses_on_the_installed_version(install, capsys):
    install("1.2")

    code, report = doctor(capsys)

    counts = report["contract"]["counts"]
    assert code == 0
    assert counts["failed"] == 0
    assert counts["passed"] > 40
    groups = {each["number"][0] for each in report["contract"]["clauses"]}
    assert groups == set("AELPRS")


def test_a_waived_clause_is_reported_and_does_not_change_the_exit_code(install, capsys):
    """The C++ runner cannot stop a run, so freed rows stay empty."""
    install("0.11")

    code, report = doctor(capsys)

    clauses = report["contract"]["clauses"]
    assert code == 0
    assert [c["number"] for c in clauses if c["outcome"] == "waived"] == ["R3"]


def test_a_failed_clause_has_its_own_exit_code(install, capsys, monkeypatch):
    install("0.11")
    monkeypatch.setattr(TensorRTLLMBackend, "waivers", {})

    code, report = doctor(capsys)

    clauses = report["contract"]["clauses"]
    assert code == 7
    assert [c["number"] for c in clauses if c["outcome"] == "failed"] == ["R3"]


@pytest.mark.parametrize("version", ["0.21", "1.2", "1.3rc20", "1.4"])
def test_every_assumption_holds_on_the_fake(install, findings, version):
    install(version)

    code, found = findings()

    assert code == 0
    assert [name for name, each in found.items() if each["held"] is False] == []


@pytest.mark.parametrize(
    ("version", "answer"), [("0.21", "no"), ("1.2", "yes")], ids=["0.21", "1.2"]
)
def test_a_check_without_a_source_reports_what_it_saw(
    install, findings, version, answer
):
    install(version)

    _, found = findings()

    shown = found["The EOS token stands at the end of the ids"]
    assert shown["held"] is None
    assert shown["detail"].startswith(answer)


@pytest.mark.parametrize("version", ["0.11", "0.21", "1.2", "1.3rc20"])
@pytest.mark.parametrize("inflight", [True, False], ids=["cpp", "python"])
def test_the_runners_are_examined_too(install, findings, engine_at, version, inflight):
    install(version)
    path = engine_at(inflight=inflight)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY / file, path)

    code, found = findings(str(path), "--option", "door=runner")

    counted = found["Lengths count the EOS token"]
    assert [each for each in found.values() if each["held"] is False] == []
    assert code == 0
    assert len(found) == (5 if inflight else 7)
    assert counted["detail"].startswith("no")


def test_a_failed_assumption_is_reported_with_exit_code_one(
    install, findings, monkeypatch
):
    install("1.2")
    monkeypatch.setattr(_doctor, "_FIELDS", ("no_such_field",))

    code, found = findings()

    failed = [each for each in found.values() if each["held"] is False]
    assert code == 1
    assert [each["detail"] for each in failed] == ["missing: no_such_field"]


def test_a_check_that_raises_is_a_finding_and_the_others_go_on(
    install, findings, monkeypatch
):
    install("1.2")

    def breaks(asker):
        """It works."""
        raise ZeroDivisionError("there")

    checks = ((breaks, "a test"), *_doctor._CHECKS[1:])  # noqa: SLF001
    monkeypatch.setattr(_doctor, "_CHECKS", checks)

    code, found = findings()

    assert code == 1
    assert found["It works"]["detail"] == "ZeroDivisionError: there"
    assert len(found) == 12
