# SPDX-License-Identifier: Apache-2.0

"""The page about the command line says what the command line does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from unillm.cli.app import app
from unillm.cli.chat_commands import COMMANDS, LEAVING
from unillm.cli.exit_codes import ExitCode

PAGE = Path(__file__).parents[2] / "docs/reference/command-line.md"


@pytest.fixture(scope="module")
def page():
    return PAGE.read_text("utf-8")


def all_commands(command):
    """A command and those below it."""
    yield command
    for each in getattr(command, "commands", {}).values():
        yield from all_commands(each)


def test_every_command_has_a_section_and_no_other(page):
    documented = re.findall(r"^## `unillm ([\w-]+)`$", page, re.MULTILINE)

    assert set(documented) == set(typer.main.get_command(app).commands)
    assert len(documented) == len(set(documented))


def test_the_commands_of_the_cache_are_those_of_the_program(page):
    documented = re.findall(r"^\| `unillm cache (\w+)` \|", page, re.MULTILINE)

    cache = typer.main.get_command(app).commands["cache"]
    assert set(documented) == set(cache.commands)


def test_the_exit_codes_are_those_of_the_program(page):
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", page, re.MULTILINE)

    assert {int(code): meaning for code, meaning in rows} == {
        code.value: code.meaning for code in ExitCode
    }


def test_the_commands_of_a_chat_are_those_of_the_program(page):
    section = page.split("## `unillm chat`")[1].split("\n## ")[0]
    first_cells = re.findall(r"^\| (.+?) \|", section, re.MULTILINE)
    documented = set(re.findall(r"`(/\w+)", " ".join(first_cells)))

    assert documented == {*COMMANDS, *LEAVING}


def test_every_option_on_the_page_exists(page):
    known = {
        flag
        for command in all_commands(typer.main.get_command(app))
        for parameter in command.params
        for flag in parameter.opts
    }

    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", page)) <= known
