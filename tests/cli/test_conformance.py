# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json

import pytest

from unillm.cli.exit_codes import ExitCode
from unillm.testing import conformance
from unillm.testing.conformance import ClauseResult, Conformance, Outcome


def result(number: str, outcome: Outcome, detail: str = "") -> ClauseResult:
    return ClauseResult(
        number=number, statement=f"{number} holds.", outcome=outcome, detail=detail
    )


GOOD = (
    result("E1", Outcome.PASSED),
    result("R8", Outcome.WAIVED, "its queue knows no priorities"),
    result("S12", Outcome.NOT_DECLARED, "not declared: logit_bias (it takes none)"),
)


@pytest.fixture
def run(monkeypatch):
    """Make a run of the contract return *results*; return its arguments."""
    asked = {}

    def use(*results):
        def run_contract(backend, *, on_result, **given):
            asked.update(given, backend=backend)
            for each in results:
                on_result(each)
            return Conformance(backend=backend, distribution="d 1", results=results)

        monkeypatch.setattr(conformance, "run_contract", run_contract)
        return asked

    return use


def test_a_backend_that_holds_the_contract_ends_well(cli, run):
    run(*GOOD)

    shown = cli("conformance", "some")

    assert shown.exit_code == 0
    header, counts, *others = shown.stdout.splitlines()
    assert header.split()[:3] == ["backend", "from", "passed"]
    assert counts.split() == ["some", "d", "1", "1", "0", "1", "1", "0"]
    assert "R8 waived: R8 holds." in others
    assert "  its queue knows no priorities" in others
    assert not any(line.startswith("E1") for line in others)


def test_a_backend_that_fails_a_clause_has_an_exit_code_of_its_own(cli, run):
    run(*GOOD, result("E3", Outcome.FAILED, "assert 506 == 511"))

    shown = cli("conformance", "some")

    assert shown.exit_code == ExitCode.NONCONFORMING
    assert "E3 failed: E3 holds.\n  assert 506 == 511" in shown.stdout


def test_json_has_every_clause(cli, run):
    run(*GOOD)

    value = json.loads(cli("conformance", "some", "--json").stdout)

    assert (value["backend"], value["conforms"]) == ("some", True)
    assert value["counts"]["waived"] == 1
    assert value["clauses"][1] == {
        "number": "R8",
        "statement": "R8 holds.",
        "outcome": "waived",
        "detail": "its queue knows no priorities",
    }


def test_options_reach_the_engine(cli, run):
    asked = run(*GOOD)

    cli("conformance", "SOME", "--option", "slots=3", "--model", "elsewhere")

    assert (asked["backend"], asked["model"]) == ("some", "elsewhere")
    assert asked["options"] == {"dtype": "float32", "backend_options": {"slots": 3}}


def test_an_unknown_backend_is_a_message(cli):
    shown = cli("conformance", "transformer")

    assert shown.exit_code == ExitCode.BACKEND
    assert "Did you mean 'transformers'" in shown.stderr
