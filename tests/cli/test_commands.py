# SPDX-License-Identifier: Apache-2.0

"""Groups of options: one declaration, the options of a command, and the given values."""

from __future__ import annotations

import inspect
from typing import Annotated, TypedDict, get_type_hints

import attrs
import pytest
import typer
from typer.testing import CliRunner

from unillm import EngineConfig, SamplingParams
from unillm.cli.app import app
from unillm.cli.commands import command
from unillm.cli.generate import Sampling
from unillm.cli.options import Engine, Option, Without, parse_key_values


class Group(TypedDict, total=False):
    top_k: Annotated[int, Option("An integer.", "COUNT")]
    is_on: Annotated[bool, Option("A switch.")]
    names: Annotated[list[str], Option("Some texts.", flag="--name")]
    dtype: Annotated[str, Option("A text.", default="auto")]
    pairs: Annotated[dict, Option("Pairs.", flag="--option", read=parse_key_values)]


received = []


@command
def whole(*, group: Group) -> None:
    received.append(group)


@command
def part(*, group: Annotated[Group, Without("top_k", dtype="float32")]) -> None:
    received.append(group)


def run(function, *args):
    """Run a command; return its result and the dict that it received, if it ran."""
    app = typer.Typer()
    app.command()(function)
    received.clear()
    return CliRunner().invoke(app, args), (received or [None])[0]


@pytest.mark.parametrize(
    ("args", "given"),
    [
        ("", {}),
        ("--top-k 0", {"top_k": 0}),
        ("--is-on", {"is_on": True}),
        ("--name a --name b", {"names": ["a", "b"]}),
        ("--option a=1 --option b=x", {"pairs": {"a": 1, "b": "x"}}),
    ],
)
def test_a_command_receives_the_given_options_and_the_defaults(args, given):
    result, group = run(whole, *args.split())

    assert group == {"dtype": "auto", **given}
    assert result.exit_code == 0


def test_a_command_may_lack_options_and_have_other_defaults():
    _, group = run(part)
    refused, nothing = run(part, "--top-k", "1")

    assert group == {"dtype": "float32"}
    assert nothing is None
    assert refused.exit_code == 2


@pytest.mark.parametrize(
    ("group", "target"), [(Engine, EngineConfig), (Sampling, SamplingParams)]
)
def test_each_key_of_a_group_is_a_field(group, target):
    known = {field.alias for field in attrs.fields(target)}
    assert group.__annotations__.keys() <= known


ENGINES = ("generate", "chat", "batch", "serve", "compare", "doctor", "plan", "build")
NOT_FOR_ALL = {
    "seed",  # `--seed` of a command is that of its sampling
    *("tokenizer", "python"),  # a build depends on neither
    *(
        "backend_options",
        "max_num_batched_tokens",
    ),  # a side of a comparison has its own
}


@pytest.mark.parametrize("name", ENGINES)
def test_every_command_that_loads_an_engine_has_the_same_options(name):
    [command] = [
        each.callback
        for each in app.registered_commands
        if each.callback.__name__ == name
    ]
    has = inspect.signature(command).parameters.keys()

    missing = get_type_hints(Engine).keys() - has

    assert missing <= NOT_FOR_ALL
