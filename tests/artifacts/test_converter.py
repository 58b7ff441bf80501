# SPDX-License-Identifier: Apache-2.0

"""A converter runs in the environment that its spec names."""

from __future__ import annotations

import sys

import attrs
import pytest

from unillm.backend import run_converter
from unillm.errors import EngineBuildError


@pytest.fixture
def said():
    return []


def run(spec, said, code):
    run_converter(spec, ["-c", code], lambda message, **_: said.append(message))


def test_it_runs_in_this_environment_by_default(spec, said, tmp_path):
    target = tmp_path / "made"
    run(
        spec,
        said,
        "import os, sys, pathlib; print('layer 1'); print(); print('1%\\r99%\\rlayer 2\\r');"
        f"pathlib.Path({str(target)!r}).write_text("
        "sys.executable + os.environ['HF_HUB_OFFLINE'])",
    )

    assert target.read_text() == sys.executable + "1"
    assert said[1:] == ["layer 1", "layer 2"]


def test_it_runs_in_the_environment_of_the_spec(spec, said, tmp_path):
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\nAN_ENVIRONMENT=other exec {sys.executable} "$@"\n')
    script.chmod(0o755)
    other = attrs.evolve(spec, python=str(script))

    run(other, said, "import os; print(os.environ['AN_ENVIRONMENT'])")

    assert said[-1] == "other"
    assert other.key == spec.key
    assert spec.covers(other)


def test_a_converter_that_fails_is_an_error_with_its_last_lines(spec, said):
    with pytest.raises(EngineBuildError, match="code 3:\nno such layer") as caught:
        run(spec, said, "print('no such layer'); raise SystemExit(3)")

    assert (caught.value.key, caught.value.backend) == (spec.key, spec.backend)


def test_an_interpreter_that_does_not_exist_is_named(spec, said, tmp_path):
    missing = attrs.evolve(spec, python=str(tmp_path / "gone"))

    with pytest.raises(EngineBuildError, match=r"gone cannot be started"):
        run(missing, said, "")


def test_a_caller_that_gives_up_ends_the_converter(spec, tmp_path):
    started = tmp_path / "started"

    def give_up(message, **_):
        if message == "go":
            raise KeyboardInterrupt

    code = f"import time; print('go', flush=True); time.sleep(60); open({str(started)!r}, 'w')"
    with pytest.raises(KeyboardInterrupt):
        run_converter(spec, ["-c", code], give_up)
    assert not started.exists()
