# SPDX-License-Identifier: Apache-2.0

"""One side as a process: its answers, its failures and its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import attrs
import pytest

from unillm.comparison.sides import Side, ask
from unillm.comparison.worker import Task
from unillm.errors import SideFailedError
from unillm.phases import listening

TASK = Task(model="unillm/tiny", options={"backend": "liar"}, max_tokens=8)
PROMPTS = [{"prompt": "ab"}, {"prompt": "abc"}]

pytestmark = pytest.mark.usefixtures("liar")


def lying(lie):
    return Side(options={"backend_options": {"lie": lie}})


@pytest.fixture
def script(tmp_path):
    """Make an interpreter of a few lines of shell."""

    def make(*lines):
        path = tmp_path / "python"
        path.write_text("\n".join(["#!/bin/sh", *lines]))
        path.chmod(0o755)
        return str(path)

    return make


def test_a_side_runs_in_the_python_that_it_was_given(script):
    path = os.environ["PYTHONPATH"]  # another interpreter does not inherit it
    python = script(f'PYTHONPATH="{path}" exec "{sys.executable}" "$@"')

    report = ask(Side(python=python), TASK, PROMPTS)

    assert (report.ready.backend, report.ready.distribution) == ("liar", "liar 1.0")
    assert [len(answer.token_ids) for answer in report.answers] == [8, 8]
    assert all(len(top) == 2 for each in report.answers for top in each.candidates)
    assert (report.done.num_tokens, report.done.repeats) == (16, True)


def test_the_phases_of_a_side_are_heard_here():
    heard = []

    with listening(heard.append):
        ask(lying("no lie"), TASK, PROMPTS)

    assert [(each.name, each.is_over) for each in heard] == [
        ("reading the tokenizer", False),
        ("reading the tokenizer", True),
    ]


def test_a_side_without_logprobs_sends_its_tokens():
    report = ask(lying("mute"), TASK, PROMPTS)

    assert [(a.candidates, a.error) for a in report.answers] == [(None, None)] * 2
    assert [len(answer.token_ids) for answer in report.answers] == [8, 8]


def test_a_side_that_does_not_repeat_its_tokens_is_reported():
    assert ask(lying("moody"), TASK, PROMPTS).done.repeats is False


def test_an_engine_that_dies_is_an_error_of_the_side():
    with pytest.raises(SideFailedError, match="it hurts") as caught:
        ask(lying("die"), TASK, PROMPTS)

    assert caught.value.kind == "EngineDeadError"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["echo it hurts >&2", "exit 7"], r"exit status 7 .*\n  it hurts"),
        (
            ["kill -9 $$"],
            "was ended by SIGKILL.* before it had answered. It printed nothing",
        ),
        (["echo hello"], r"printed 'hello\\n', which is not a line of JSON"),
    ],
    ids=["exit", "signal", "print"],
)
def test_a_side_that_ends_early_says_how(script, lines, message):
    with pytest.raises(SideFailedError, match=message):
        ask(Side(python=script(*lines)), TASK, PROMPTS)


def test_a_python_without_unillm_is_an_error_with_the_command(script):
    python = script(f'PYTHONPATH= exec "{sys.executable}" -S "$@"')

    with pytest.raises(SideFailedError, match=r"Install unillm there: .*pip install"):
        ask(Side(python=python), TASK, PROMPTS)


def test_another_protocol_is_refused():
    with pytest.raises(SideFailedError, match="protocol 0 and 2"):
        ask(Side(), attrs.evolve(TASK, protocol=0), PROMPTS)


def test_a_side_ends_with_its_caller():
    with subprocess.Popen(
        [sys.executable, "-m", "unillm.comparison.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as worker:
        options = {"backend": "liar", "backend_options": {"lie": "sleep"}}
        task = attrs.asdict(attrs.evolve(TASK, options=options))
        for line in (task, *PROMPTS, {"end": True}):
            worker.stdin.write(json.dumps(line) + "\n")
        worker.stdin.flush()
        assert any("ready" in json.loads(line) for line in worker.stdout)

        worker.stdin.close()

        assert worker.wait(60) == -signal.SIGTERM


def test_a_child_of_a_side_is_killed(script, tmp_path):
    pid = tmp_path / "pid"
    python = script(f"sleep 300 & echo $! > {pid}", "exit 1")

    with pytest.raises(SideFailedError):
        ask(Side(python=python), TASK, PROMPTS)

    state = subprocess.run(
        ["ps", "-o", "stat=", "-p", pid.read_text().strip()],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    assert state.strip()[:1] in ("", "Z")
