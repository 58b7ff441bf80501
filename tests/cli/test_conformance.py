# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json

from unillm.cli.exit_codes import ExitCode
from unillm.testing.conformance import ClauseResult, Outcome


def result(number: str, outcome: Outcome, detail: str = "") -> ClauseResult:
    return ClauseResult(
        number=number, statement=f"{number} holds.", outcome=outcome, detail=detail
    )


GOOD = (
    result("E1", Outcome.PASSED),
    result("R8", Outcome.WAIVED, "its queue knows no priorities"),
    result("S12", Outcome.NOT_DECLARED, "not declared: logit_bias (it takes none)"),
)


def test_a_backend_that_holds_the_contract_ends_well(cli, contract):
    contract(*GOOD)

    shown = cli("conformance", "some")

    assert shown.exit_code == 0
    header, counts, *others = shown.stdout.splitlines()
    assert header.split()[:3] == ["backend", "from", "passed"]
    assert counts.split() == ["some", "d", "1", "1", "0", "1", "1", "0"]
    assert "R8 waived: R8 holds." in others
    assert "  its queue knows no priorities" in others
    assert not any(line.startswith("E1") for line in others)


def test_a_backend_that_fails_a_clause_has_an_exit_code_of_its_own(cli, contract):
    contract(*GOOD, result("E3", Outcome.FAILED, "assert 506 == 511"))

    shown = cli("conformance", "some")

    assert shown.exit_code == ExitCode.NONCONFORMING
    assert "E3 failed: E3 holds.\n  assert 506 == 511" in shown.stdout


def test_one_cause_of_many_failures_is_printed_once(cli, contract):
    alike = [result(f"E{n}", Outcome.FAILED, "TypeError: no tokens") for n in range(9)]
    contract(*GOOD, *alike, result("E9", Outcome.FAILED, "assert 1 == 2"))

    shown = cli("conformance", "some").stdout

    assert shown.count("TypeError: no tokens") == 1
    assert "9 clauses failed alike: E0, E1, E2, E3, E4, E5, E6, E7, E8\n" in shown
    assert "E9 failed: E9 holds.\n  assert 1 == 2" in shown


def test_a_badge_has_the_counts(cli, contract, tmp_path):
    file = tmp_path / "badge.json"
    contract(*GOOD)
    cli("conformance", "some", "--badge", str(file))
    good = json.loads(file.read_text())
    contract(result("E3", Outcome.FAILED, "assert 506 == 511"))
    cli("conformance", "some", "--badge", str(file))

    assert good == {
        "schemaVersion": 1,
        "label": "unillm contract: some",
        "message": "1 passed, 1 waived",
        "color": "brightgreen",
    }
    assert json.loads(file.read_text())["message"] == "1 failed"
    assert json.loads(file.read_text())["color"] == "red"


def test_json_has_every_clause(cli, contract):
    contract(*GOOD)

    value = json.loads(cli("conformance", "some", "--json").stdout)

    assert (value["backend"], value["conforms"]) == ("some", True)
    assert value["counts"]["waived"] == 1
    assert value["clauses"][1] == {
        "number": "R8",
        "statement": "R8 holds.",
        "outcome": "waived",
        "detail": "its queue knows no priorities",
        "advice": "",
        "file": "",
    }


def test_options_reach_the_engine(cli, contract):
    asked = contract(*GOOD)

    cli("conformance", "SOME", "--option", "slots=3", "--model", "elsewhere")

    assert (asked["backend"], asked["model"]) == ("some", "elsewhere")
    assert asked["options"] == {"dtype": "float32", "backend_options": {"slots": 3}}


def test_an_unknown_backend_is_a_message(cli):
    shown = cli("conformance", "transformer")

    assert shown.exit_code == ExitCode.BACKEND
    assert "Did you mean 'transformers'" in shown.stderr
