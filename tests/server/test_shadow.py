# SPDX-License-Identifier: Apache-2.0

"""A second engine behind a server: real engines, in processes of their own."""

from __future__ import annotations

import os
import signal
import sys
import time

import psutil
import pytest
from server_process import running
from typer.testing import CliRunner

from unillm.cli.app import app

PROMPTS = [f"Count from {n} to {n + 6}:" for n in range(1, 9)]
SHADOW = ("--shadow", "transformers", "--shadow-share", "0.5")


def report_after(server, condition, timeout=120.0):
    """Return the report once *condition* holds of it."""
    limit = time.monotonic() + timeout
    while not condition(report := server.client.get("/shadow").json()):
        assert time.monotonic() < limit, report
        time.sleep(0.1)
    return report


def ask_all(server, **fields):
    given = {"temperature": 0, "max_tokens": 20, **fields}
    return [
        server.post("/v1/completions", prompt=each, **given).json() for each in PROMPTS
    ]


@pytest.fixture(scope="module")
def server():
    with running("unillm/tiny", "--dtype", "float32", *SHADOW) as server:
        report_after(server, lambda report: report["state"] == "ready")
        yield server


def test_its_share_of_the_greedy_requests_is_repeated_and_agrees(server):
    ask_all(server)
    ask_all(server, temperature=1.0, seed=3)

    report = report_after(server, lambda report: report["compared"] == 4)

    assert report["verdicts"] == {"equal": 4}
    assert (report["agreed"], report["dropped"], report["waiting"]) == (4, 0, 0)
    assert report["differences"] == []
    for side in ("first", "shadow"):
        assert 0 < report["latency"][side]["median"] <= report["latency"][side]["p95"]
    metrics = server.client.get("/metrics").text
    assert "unillm:shadow_compared_total{" in metrics
    assert "unillm:shadow_e2e_request_latency_seconds_count{" in metrics


def test_each_field_of_a_request_reaches_the_shadow(server):
    before = report_after(server, lambda report: report["waiting"] == 0)["compared"]

    ask_all(
        server,
        stop=["6"],
        logit_bias={"18": -5},
        repetition_penalty=1.1,
        min_tokens=2,
        bad_words=["7"],
        logprobs=2,
    )
    ask_all(server, structured_outputs={"regex": "[0-9 ]{3,9}"})

    report = report_after(server, lambda report: report["compared"] == before + 8)
    assert report["verdicts"] == {"equal": before + 8}


def test_a_shadow_that_dies_is_said_and_the_first_goes_on(server):
    [shadow] = [
        child
        for child in psutil.Process(server.process.pid).children()
        if "unillm.comparison.follower" in child.cmdline()
    ]
    os.kill(shadow.pid, signal.SIGKILL)

    report = report_after(server, lambda report: report["state"] != "ready", 10.0)

    assert report["state"] == "ended with exit status -9"
    answers = ask_all(server)
    assert [each["choices"][0]["finish_reason"] for each in answers] == ["stop"] * 8
    assert report_after(server, lambda each: each["dropped"] >= 4)
    assert server.client.get("/health").status_code == 200


def test_answers_that_end_differently_are_listed():
    short = ("--shadow-share", "1", "--shadow-option", "max_model_len=20")
    with running("unillm/tiny", *SHADOW[:2], *short) as server:
        report_after(server, lambda report: report["state"] == "ready")
        server.post("/v1/completions", prompt=PROMPTS[0], temperature=0)

        report = report_after(server, lambda report: report["compared"] == 1)

    [found] = report["differences"]
    assert report["verdicts"] == {"ended differently": 1}
    assert found["num_tokens"] == [14, 9]
    assert found["position"] is None


ECHO = """
import json, sys

print(json.dumps({"ready": {}}), flush=True)
sys.stdin.readline()
for line in sys.stdin:
    repeat = json.loads(line)
    ids = [18, 220, 99]
    candidates = [[{"token_id": each, "logprob": -0.5}] for each in ids]
    candidates[2].append({"token_id": 19, "logprob": -0.75})
    answer = {
        "prompt_token_ids": repeat["prompt_token_ids"],
        "token_ids": ids,
        "candidates": candidates,
    }
    repeated = {"number": repeat["number"], "answer": answer, "seconds": 0.25}
    print(json.dumps({"answer": repeated}), flush=True)
"""
"""A follower whose third token is another, with the first engine's as its second."""

STUCK = """
import json, os, time

print(json.dumps({"ready": {}}), flush=True)
parent = os.getppid()
while os.getppid() == parent:
    time.sleep(0.1)
"""
"""A follower that reads nothing."""


@pytest.fixture
def follower(tmp_path):
    """Return a function that makes an interpreter which runs a program of its own."""

    def follower(program):
        path = tmp_path / "python"
        path.write_text(f"#!{sys.executable}\n{program}")
        path.chmod(0o755)
        return ("--shadow-share", "1", "--shadow-python", str(path))

    return follower


def test_a_divergence_has_its_position_and_its_gap(follower):
    with running("unillm/tiny", *SHADOW[:2], *follower(ECHO)) as server:
        report_after(server, lambda report: report["state"] == "ready")
        answer = server.post(
            "/v1/completions",
            prompt="Count from 3 to 9:",
            temperature=0,
            logprobs=5,
            return_token_ids=True,
        ).json()
        report = report_after(server, lambda report: report["compared"] == 1)

    assert answer["choices"][0]["token_ids"][:3] == [18, 220, 19]
    [found] = report["differences"]
    assert (found["verdict"], found["position"]) == ("diverged", 2)
    assert found["token_ids"] == [19, 99]
    of_first, of_shadow = found["gaps"]
    assert of_first > 0
    assert of_shadow == 0.25
    assert report["latency"]["shadow"]["median"] == 0.25


def test_a_shadow_that_hangs_holds_up_nothing_and_keeps_a_bounded_queue(follower):
    with running("unillm/tiny", *SHADOW[:2], *follower(STUCK)) as server:
        report_after(server, lambda report: report["state"] == "ready")
        prompts = [f"Count from 1 to {n}:" for n in range(2, 102)]
        given = {"temperature": 0, "max_tokens": 2}
        answer = server.post("/v1/completions", prompt=prompts, **given).json()
        report = report_after(
            server, lambda each: each["waiting"] + each["dropped"] >= 100
        )

    assert len(answer["choices"]) == 100
    assert (report["waiting"], report["dropped"]) == (72, 28)


def test_no_process_outlives_a_server_that_is_killed():
    with running("unillm/tiny", *SHADOW) as server:
        [child] = psutil.Process(server.process.pid).children()
        server.terminate(signal.SIGKILL)

        child.wait(30.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--shadow-share", "0.1"), "need --shadow NAME"),
        (("--shadow", "transformers", "--shadow-share", "2"), "above 0 and at most 1"),
    ],
)
def test_options_of_a_shadow_are_checked(arguments, message):
    result = CliRunner().invoke(app, ["serve", "unillm/tiny", *arguments])

    assert result.exit_code != 0
    assert message in " ".join(result.output.split())
