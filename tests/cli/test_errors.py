# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest

from unillm import errors
from unillm.cli.exit_codes import ExitCode, exit_code_of


def every_error(kind=errors.UnillmError):
    yield kind
    for below in kind.__subclasses__():
        yield from every_error(below)


@pytest.mark.parametrize(
    "kind", sorted(set(every_error()) - {errors.UnillmError}, key=str)
)
def test_every_error_has_an_exit_code(kind):
    class Raised(kind):
        def __init__(self):
            pass

    assert exit_code_of(Raised()) not in (ExitCode.OK, ExitCode.BUG)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.RequestFailedError("x"), 1),
        (errors.ConfigError("x"), 2),
        (errors.InvalidParameterError("x", parameter="n"), 2),
        (errors.EosNotFoundError("x"), 3),
        (errors.BackendNotFoundError("x", name="n", installed=()), 4),
        (errors.BackendUnavailableError("x", name="n"), 4),
        (errors.EngineOutOfMemoryError("x"), 5),
        (errors.GeneratorClosedError("x"), 5),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_an_error_is_one_message_and_its_code(error, code, fake, cli, monkeypatch):
    def fail(self, *_, **__):
        raise error

    monkeypatch.setattr(fake, "__init__", fail)

    result = cli("generate", "a")

    assert result.stderr == "error: x\n"
    assert result.stdout == ""
    assert result.exit_code == code


@pytest.mark.parametrize(
    "args",
    [
        ["generate", "--file", "~no-one/x"],
        ["generate", "a", "--output", "~no-one/x"],
        ["generate", "a", "--model", "~no-one/x"],
        ["generate", "a", "--tokenizer", "~no-one/x"],
        ["generate", "a", "--lora", "~no-one/x"],
        ["batch", "~no-one/x", "--model", "unillm/tiny", "-o", "out.jsonl"],
        ["inspect", "~no-one/x"],
    ],
    ids=lambda args: " ".join(args[:3]),
)
def test_the_home_of_an_unknown_user_is_a_path_that_does_not_exist(
    args, cli, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    result = cli(*args)

    assert "~no-one/x" in result.stderr
    assert result.exit_code in (ExitCode.USAGE, ExitCode.MODEL)


@pytest.mark.parametrize(
    "args",
    [["--debug", "generate", "bad"], ["generate", "--debug", "bad"]],
    ids=["before the command", "after it"],
)
def test_debug_shows_the_traceback(args, fake, cli):
    fake.faults["bad"] = errors.RequestFailedError("row 3 is gone")

    result = cli(*args)

    assert "Traceback (most recent call last)" in result.stderr
    assert result.stderr.endswith("error: row 3 is gone\n")
    assert result.exit_code == 1


def test_an_unexpected_error_is_reported_as_a_bug(fake, cli):
    fake.faults["bad"] = KeyError("oops")

    result = cli("generate", "bad")

    assert result.stderr == (
        "error: KeyError: 'oops' (this is a bug in unillm. Run it again with --debug "
        "and report what it shows.)\n"
    )
    assert result.exit_code == 70


@pytest.mark.filterwarnings("default")
def test_a_warning_is_one_line(fake, cli):
    result = cli("generate", "a", "--temperature", "0.001")

    assert result.stderr.startswith("warning: temperature 0.001 is raised to 0.01")
    assert len(result.stderr.splitlines()) == 1
    assert result.exit_code == 0
