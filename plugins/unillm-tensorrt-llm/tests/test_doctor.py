# SPDX-License-Identifier: Apache-2.0

"""The doctor on the double: what holds, and what it answers that no source says."""

from __future__ import annotations

import json

import pytest
from unillm_tensorrt_llm import _doctor

from unillm.cli import main


def findings(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--backend", "tensorrt-llm", "--json", *arguments])
    found = json.loads(capsys.readouterr().out)
    return ended.value.code, {each["assumption"]: each for each in found}


@pytest.mark.parametrize("version", ["0.21", "1.2", "1.3rc20", "1.4"])
def test_every_assumption_holds_on_the_double(install, capsys, version):
    install(version)

    code, found = findings(capsys)

    assert 0 == code
    assert [] == [name for name, each in found.items() if each["held"] is False]


@pytest.mark.parametrize(
    ("version", "answer"), [("0.21", "no"), ("1.2", "yes")], ids=["0.21", "1.2"]
)
def test_what_no_source_says_is_answered(install, capsys, version, answer):
    install(version)

    _, found = findings(capsys)

    shown = found["The end id stands at the end of the ids"]
    assert shown["held"] is None
    assert shown["detail"].startswith(answer)


def test_an_assumption_that_does_not_hold_is_told_and_ends_with_one(
    install, capsys, monkeypatch
):
    install("1.2")
    monkeypatch.setattr(_doctor, "_FIELDS", ("no_such_field",))

    code, found = findings(capsys)

    failed = [each for each in found.values() if each["held"] is False]
    assert 1 == code
    assert ["missing: no_such_field"] == [each["detail"] for each in failed]


def test_a_check_that_raises_is_a_finding_and_stops_no_other(
    install, capsys, monkeypatch
):
    install("1.2")

    def breaks(asker):
        """It works."""
        raise ZeroDivisionError("there")

    monkeypatch.setattr(_doctor, "_seeds_repeat", breaks)

    code, found = findings(capsys)

    assert 1 == code
    assert "ZeroDivisionError: there" == found["It works"]["detail"]
    assert 11 == len(found)
