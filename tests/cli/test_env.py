# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import sys

import pytest

from unillm.process.child import interpreter
from unillm.process.environments import environments
from unillm.settings import settings_file


@pytest.fixture(autouse=True)
def settings(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))


def test_an_environment_is_added_listed_checked_and_removed(cli):
    assert cli("env", "add", "own", sys.executable).exit_code == 0

    [listed] = json.loads(cli("env", "list", "--json").stdout)
    assert (listed["name"], listed["python"]) == ("own", sys.executable)
    assert "transformers" in listed["backends"]
    checked = cli("env", "check")
    assert checked.exit_code == 0
    assert checked.stdout.startswith("own: ")
    assert cli("env", "remove", "own").exit_code == 0
    assert environments() == {}


def test_a_directory_is_the_interpreter_in_it(tmp_path):
    folder = tmp_path / "env" / "bin"
    folder.mkdir(parents=True)
    (folder / "python").symlink_to(sys.executable)

    # The link is kept: a virtual environment's interpreter is one.
    assert interpreter(tmp_path / "env") == str(folder / "python")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["add", "x", "/nowhere/python"],
            "No backend can run in /nowhere/python: /nowhere/python cannot be run",
        ),
        (["add", "a b", sys.executable], "cannot name an environment"),
        (["remove", "absent"], "No environment is called 'absent'"),
        (["check", "absent"], "No environment is called 'absent'"),
    ],
    ids=["no interpreter", "no name", "not there", "not there to check"],
)
def test_a_mistake_is_an_error_that_keeps_the_file(cli, args, message):
    result = cli("env", *args)

    assert result.exit_code != 0
    assert message in result.stderr
    assert not settings_file().exists()


def test_an_environment_that_is_gone_is_reported_by_check(cli):
    settings_file().parent.mkdir(parents=True)
    settings_file().write_text(
        '{"environments": {"old": {"python": "/gone/python", "backends": ["vllm"]}}}'
    )

    result = cli("env", "check", "--json")

    [found] = json.loads(result.stdout)
    assert "/gone/python cannot be run" in found["problem"]
    assert result.exit_code == 1


def test_a_file_that_is_not_a_table_is_named(cli):
    settings_file().parent.mkdir(parents=True)
    settings_file().write_text("[1]")

    result = cli("env", "list")

    assert result.exit_code != 0
    assert str(settings_file()) in result.stderr.replace("\n", "")
