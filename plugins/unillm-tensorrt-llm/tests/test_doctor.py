# SPDX-License-Identifier: Apache-2.0

"""The doctor on the double: what holds, and what it answers that no source says."""

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
    """Run the doctor without the clauses; return the code and what was found."""

    def run_contract(backend, **given):
        return Conformance(backend=backend, distribution="", results=())

    def findings(*arguments):
        monkeypatch.setattr(conformance, "run_contract", run_contract)
        code, told = doctor(capsys, *arguments)
        return code, {each["assumption"]: each for each in told["findings"]}

    return findings


def test_the_clauses_are_run_on_what_is_installed(install, capsys):
    install("1.2")

    code, told = doctor(capsys)

    counts = told["contract"]["counts"]
    assert 0 == code
    assert 0 == counts["failed"]
    assert 40 < counts["passed"]
    assert set("AELPRS") == {each["number"][0] for each in told["contract"]["clauses"]}


def test_a_clause_that_is_waived_is_told_and_changes_no_exit_code(install, capsys):
    """The C++ runner goes on when it is stopped, so its places are not refilled."""
    install("0.11")

    code, told = doctor(capsys)

    clauses = told["contract"]["clauses"]
    assert 0 == code
    assert ["R3"] == [c["number"] for c in clauses if c["outcome"] == "waived"]


def test_a_clause_that_does_not_hold_has_an_exit_code_of_its_own(
    install, capsys, monkeypatch
):
    install("0.11")
    monkeypatch.setattr(TensorRTLLMBackend, "waivers", {})

    code, told = doctor(capsys)

    clauses = told["contract"]["clauses"]
    assert 7 == code
    assert ["R3"] == [c["number"] for c in clauses if c["outcome"] == "failed"]


@pytest.mark.parametrize("version", ["0.21", "1.2", "1.3rc20", "1.4"])
def test_every_assumption_holds_on_the_double(install, findings, version):
    install(version)

    code, found = findings()

    assert 0 == code
    assert [] == [name for name, each in found.items() if each["held"] is False]


@pytest.mark.parametrize(
    ("version", "answer"), [("0.21", "no"), ("1.2", "yes")], ids=["0.21", "1.2"]
)
def test_what_no_source_says_is_answered(install, findings, version, answer):
    install(version)

    _, found = findings()

    shown = found["The end id stands at the end of the ids"]
    assert shown["held"] is None
    assert shown["detail"].startswith(answer)


@pytest.mark.parametrize("version", ["0.11", "0.21", "1.2", "1.3rc20"])
@pytest.mark.parametrize("inflight", [True, False], ids=["cpp", "python"])
def test_the_runners_are_examined_too(install, findings, engine_at, version, inflight):
    profile = install(version)
    path = engine_at(inflight=inflight)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY / file, path)

    code, found = findings(str(path), "--option", "door=runner")

    counted = found["Lengths count the end id"]
    answer = "yes" if profile.end_id_counted else "no"
    assert [] == [each for each in found.values() if each["held"] is False]
    assert 0 == code
    assert (5 if inflight else 7) == len(found)
    assert counted["detail"].startswith(answer)


def test_an_assumption_that_does_not_hold_is_told_and_ends_with_one(
    install, findings, monkeypatch
):
    install("1.2")
    monkeypatch.setattr(_doctor, "_FIELDS", ("no_such_field",))

    code, found = findings()

    failed = [each for each in found.values() if each["held"] is False]
    assert 1 == code
    assert ["missing: no_such_field"] == [each["detail"] for each in failed]


def test_a_check_that_raises_is_a_finding_and_stops_no_other(
    install, findings, monkeypatch
):
    install("1.2")

    def breaks(asker):
        """It works."""
        raise ZeroDivisionError("there")

    monkeypatch.setattr(_doctor, "_seeds_repeat", breaks)

    code, found = findings()

    assert 1 == code
    assert "ZeroDivisionError: there" == found["It works"]["detail"]
    assert 12 == len(found)
