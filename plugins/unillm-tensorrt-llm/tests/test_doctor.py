# SPDX-License-Identifier: Apache-2.0

"""``unillm doctor`` on the fake TensorRT-LLM."""

from __future__ import annotations

import importlib
import itertools
import json
import shutil

import pytest
from conftest import TINY
from trtllm_double.profiles import PROFILES
from unillm_tensorrt_llm import TensorRTLLMBackend, _doctor

from unillm.cli import main
from unillm.testing import conformance
from unillm.testing.conformance import Conformance


def doctor(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(
            ["doctor", "--contract", "--backend", "tensorrt-llm", "--json", *arguments]
        )
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


@pytest.mark.parametrize("version", PROFILES)
def test_every_assumption_holds_on_the_fake(install, findings, version):
    install(version)

    code, found = findings()

    assert code == 0
    assert [name for name, each in found.items() if each["held"] is False] == []


@pytest.mark.parametrize(
    ("version", "options", "answer"),
    [
        ("0.13", [], "hidden"),
        ("1.2", [], "hidden"),
        ("1.2", ["--option", "sampler_type=TorchSampler"], "shown"),
        ("1.4", [], "shown"),
    ],
    ids=["0.13", "1.2", "1.2 TorchSampler", "1.4"],
)
def test_each_sampler_shows_or_hides_the_eos_token(
    install, findings, version, options, answer
):
    install(version)

    code, found = findings("unillm/tiny", *options)

    [shown] = of(found, "TorchSampler shows the EOS token")
    assert (code, shown["held"]) == (0, True)
    assert shown["detail"].startswith(answer)


def of(found, beginning):
    return [each for name, each in found.items() if name.startswith(beginning)]


def test_the_effect_of_a_refused_field_is_reported_and_not_judged(install, findings):
    install("1.2")

    code, found = findings("unillm/tiny", "--option", "sampler_type=TorchSampler")

    [seeds] = of(found, "A seed repeats its tokens")
    assert (code, seeds["held"]) == (0, None)
    assert seeds["detail"].startswith("repeats: False")


@pytest.mark.parametrize(
    ("field", "assumption"),
    [
        ("temperature", "Requests at a high temperature draw several tokens"),
        ("seed", "A seed repeats its tokens"),
        ("repetition_penalty", "A repetition penalty changes"),
        ("bad_token_ids", "An id of bad_token_ids is not sampled"),
        ("min_tokens", "Before min_tokens the only stop id"),
    ],
)
def test_an_engine_that_ignores_a_declared_field_is_found_out(
    install, findings, monkeypatch, field, assumption
):
    install("1.2")
    llm_class = importlib.import_module("tensorrt_llm").LLM
    submit = llm_class.generate_async
    numbers = itertools.count()

    def ignore(self, inputs, sampling_params=None, **given):
        ignored = next(numbers) if field == "seed" else None
        if field == "temperature":
            sampling_params.top_k = 1
        setattr(sampling_params, field, ignored)
        return submit(self, inputs, sampling_params, **given)

    monkeypatch.setattr(llm_class, "generate_async", ignore)

    code, found = findings()

    [seen] = of(found, assumption)
    assert (code, seen["held"]) == (1, False)


@pytest.mark.parametrize("version", ["0.11", "0.21", "1.2", "1.3rc20"])
@pytest.mark.parametrize("inflight", [True, False], ids=["cpp", "python"])
def test_the_runners_are_examined_too(install, findings, engine_at, version, inflight):
    install(version)
    path = engine_at(inflight=inflight)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY / file, path)

    code, found = findings(str(path), "--option", "door=runner")

    assert [each for each in found.values() if not each["held"]] == []
    assert code == 0
    assert len(found) == (5 if inflight else 7)
    assert found["Lengths do not count the EOS token"]["held"]


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
    assert len(found) == 15
