# SPDX-License-Identifier: Apache-2.0

"""Runs of the contract on a registered backend, and their results."""

from __future__ import annotations

import json
import sys

import attrs
import pytest
from repeat_contract import Verdicts
from testing.broken.bases import CAPABILITIES, SETTINGS, Own

from unillm.engines.backend import Sometimes
from unillm.engines.base import Capabilities, Capability, Support
from unillm.errors import BackendNotFoundError, PluginError
from unillm.testing.backends import ScriptedBackend, plugged
from unillm.testing.conformance import (
    ClauseResult,
    Conformance,
    Outcome,
    run_contract,
)
from unillm.testing.randomised import run_random

NO_BIAS = Capability(support=Support.UNSUPPORTED, reason="it takes no bias")


class Flawed(Own):
    """Has a statistic that is not a JSON value, and raises when closed twice."""

    def stats(self):
        return {"running": set(self._running)}

    def close(self):
        assert ("close",) not in self.calls, "it is closed"
        super().close()


class ChosenAlone(Own):
    """Knows the log-probability of the chosen token, and nothing of its rank."""

    def step(self):
        return [
            attrs.evolve(output, logprobs=[self.bare(at) for at in output.logprobs])
            if output.logprobs
            else output
            for output in super().step()
        ]

    def bare(self, at):
        return attrs.evolve(at, rank=None)


class TwoBeside(Own):
    """Returns at most two log-probabilities beside the chosen token's."""

    def __init__(self, config):
        super().__init__(config)
        self.limits = attrs.evolve(self.limits, max_logprobs=2)


DETAILS = {
    ChosenAlone: {"P2": "passed", "P4": "not declared", "P6": "not declared"},
    TwoBeside: {"P2": "passed", "P4": "passed", "P6": "not declared"},
}


@pytest.mark.parametrize("kind", DETAILS, ids=lambda kind: kind.__name__)
def test_an_engine_may_know_less_of_log_probabilities(kind):
    own = {"prompt_logprobs": NO_BIAS}
    if kind is ChosenAlone:
        own["logprobs.top"] = NO_BIAS
    capabilities = CAPABILITIES.refined(Capabilities(fields=own))
    backend = ScriptedBackend(kind, name="less", capabilities=capabilities)
    with plugged(backend):
        found = run_contract(
            "less", options=SETTINGS["options"], only=[*DETAILS[kind], "G6", "L7"]
        )
        report = run_random("less", requests=60, options=SETTINGS["options"])

    outcomes = {result.number: result.outcome.value for result in found.results}
    assert outcomes == {**DETAILS[kind], "G6": "passed", "L7": "passed"}
    assert (report.fault, report.program) == ("", "")


class UnluckyAtFirst(Own):
    """Draws one token for all of the first seeds, as chance might without any seed."""

    def token(self, request, position):
        if request.seed < 128:
            request = self.changed(request, seed=1)
        return self.script(request, position)


def test_draws_that_look_wrong_are_judged_by_more_draws():
    with plugged(
        ScriptedBackend(UnluckyAtFirst, name="unlucky", capabilities=CAPABILITIES)
    ):
        found = run_contract("unlucky", options=SETTINGS["options"], only=["S5", "S16"])

    assert [result.detail for result in found.results] == ["", ""]
    assert found.counts()["passed"] == 2


def flawed(**waivers) -> ScriptedBackend:
    return ScriptedBackend(
        Flawed,
        name="flawed",
        capabilities=Capabilities(
            fields={"logit_bias": NO_BIAS, "structured_outputs": NO_BIAS}
        ),
        waivers=waivers,
    )


@pytest.fixture(scope="module")
def found():
    seen = []
    with plugged(flawed(C1="it closes once")):
        found = run_contract(
            "flawed", options=SETTINGS["options"], on_result=seen.append
        )
    assert sorted(seen, key=repr) == sorted(found.results, key=repr)
    return found


def test_each_clause_has_one_outcome(found):
    assert found.counts() == {
        "passed": len(found.results) - 8,
        "failed": 2,
        "waived": 1,
        "not declared": 4,
        "not shown": 1,
    }
    assert len({result.number for result in found.results}) == len(found.results)


def test_a_failure_has_the_message_of_its_assertion(found):
    failed = {result.number: result for result in found.of(Outcome.FAILED)}

    assert set(failed) == {"C3", "L8"}
    assert "it is closed" in failed["C3"].detail
    assert not found.conforms


def test_waivers_and_undeclared_fields_have_their_reasons(found):
    [waived] = found.of(Outcome.WAIVED)
    reasons = {
        result.number: result.detail for result in found.of(Outcome.NOT_DECLARED)
    }

    assert (waived.number, waived.detail) == ("C1", "it closes once")
    assert set(reasons) == {"P8", "R12", "S12", "T14"}
    assert "it takes no bias" in reasons["S12"]


def test_an_interrupt_ends_a_run_of_the_contract():
    def interrupt(result):
        raise KeyboardInterrupt

    with plugged(flawed()), pytest.raises(KeyboardInterrupt):
        run_contract(
            "flawed", options=SETTINGS["options"], only=["E1"], on_result=interrupt
        )


def test_a_waived_clause_that_passes_is_a_failure():
    waivers = {"C1": "it closes once", "C3": "so too", "L8": "sets", "E1": "no idea"}
    with plugged(flawed(**waivers, R3=Sometimes("the clock decides"))):
        found = run_contract("flawed", options=SETTINGS["options"])

    [failed] = found.of(Outcome.FAILED)
    assert failed.number == "E1"
    assert "XPASS" in failed.detail
    waived = {result.number: result.detail for result in found.of(Outcome.WAIVED)}
    assert waived["R3"] == "the clock decides"  # it passes, or not


def test_a_waiver_of_a_clause_that_fails_sometimes_stands_either_way():
    waivers = {name: Sometimes("it depends") for name in ("C1", "C3", "L8", "E1")}
    with plugged(flawed(**waivers)):
        found = run_contract("flawed", options=SETTINGS["options"], only=waivers)

    outcomes = {result.number: result.outcome.value for result in found.results}
    assert set(outcomes.values()) == {"waived"}


def test_the_core_clauses_run_in_order():
    seen = []
    with plugged(flawed()):
        found = run_contract(
            "flawed", options=SETTINGS["options"], core=True, on_result=seen.append
        )

    assert {result.number[0] for result in found.results} == set("AELPRS")
    assert seen == list(found.results)
    assert [result.number for result in found.of(Outcome.FAILED)] == ["L8"]


def test_on_result_can_write_to_standard_output(capsys):
    with plugged(flawed()):
        found = run_contract(
            "flawed",
            options=SETTINGS["options"],
            core=True,
            on_result=lambda result: sys.stdout.write(f"{result.number}\n"),
        )

    assert [r.number for r in found.results] == capsys.readouterr().out.split()


def test_a_waiver_of_an_unknown_clause_is_refused():
    with plugged(flawed(Z9="never heard")), pytest.raises(PluginError, match="Z9"):
        run_contract("flawed", options=SETTINGS["options"])


def test_an_unknown_backend_is_refused_before_any_clause_runs():
    with pytest.raises(BackendNotFoundError, match="Did you mean 'transformers'"):
        run_contract("transformer")


def test_results_are_plain_data(found):
    text = json.dumps([result.detail for result in found.results])

    assert json.loads(text)


def test_repeats_name_the_clauses_whose_verdict_changed(capsys):
    verdicts = Verdicts()
    for second in (Outcome.PASSED, Outcome.FAILED):
        outcomes = {"E1": Outcome.PASSED, "E2": second}
        results = tuple(
            ClauseResult(number=number, statement="", outcome=outcome, detail="why")
            for number, outcome in outcomes.items()
        )
        verdicts.add(Conformance(backend="own", distribution="", results=results))

    assert verdicts.changed == {"E2": {"passed": 1, "failed": 1}}
    assert verdicts.counts == {"passed": 1}
    assert capsys.readouterr().out == "2: E2: why\n"
