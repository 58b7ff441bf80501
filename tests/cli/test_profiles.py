# SPDX-License-Identifier: Apache-2.0

"""Options of the settings file: defaults, profiles, and a file that cannot be read."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from unillm.settings import settings_file

ROOT = Path(__file__).parents[2]


@pytest.fixture
def settings(monkeypatch, tmp_path):
    """Write the settings file."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("UNILLM_PROFILE", raising=False)
    settings_file().parent.mkdir()
    return lambda **content: settings_file().write_text(json.dumps(content))


def loaded(fake):
    """Model, options and params of the last generator."""
    generator = fake.created[-1]
    return generator.model, generator.options, generator.asked[-1][1]


def test_the_command_line_goes_before_the_profile_and_that_before_the_defaults(
    settings, cli, fake
):
    settings(
        defaults={"temperature": 0.1, "top_k": 2, "max-model-len": 64},
        profiles={"big": {"model": "some/model", "temperature": 0.2, "max_tokens": 5}},
    )

    assert cli("generate", "a", "--profile", "big", "--max-tokens", 7).exit_code == 0

    model, options, params = loaded(fake)
    assert (model, options["max_model_len"]) == ("some/model", 64)
    assert (params.temperature, params.top_k, params.max_tokens) == (0.2, 2, 7)


def test_the_environment_names_a_profile(settings, cli, fake, monkeypatch):
    settings(profiles={"big": {"model": "some/model"}})
    monkeypatch.setenv("UNILLM_PROFILE", "big")

    cli("generate", "a")

    assert loaded(fake)[0] == "some/model"


def test_lists_objects_and_flags_are_written_as_json(settings, cli, fake):
    settings(
        defaults={
            "stop": ["x", "y"],
            "option": {"device": "cpu", "threads": 2},
            "speculative_config": {"method": "ngram"},
            "enforce_eager": True,
        }
    )

    cli("generate", "a")

    _, options, params = loaded(fake)
    assert params.stop == ["x", "y"]
    assert options["backend_options"] == {"device": "cpu", "threads": 2}
    assert options["speculative_config"] == {"method": "ngram"}
    assert options["enforce_eager"] is True


def test_an_option_of_other_commands_is_left_out(settings, cli, fake):
    settings(defaults={"port": 9000, "top_k": 2})

    assert cli("generate", "a").exit_code == 0
    assert loaded(fake)[2].top_k == 2


@pytest.mark.parametrize(
    ("content", "args", "says"),
    [
        ({"profiles": {"big": {}}}, ["--profile", "bog"], "Did you mean 'big'"),
        ({"defaults": {"temprature": 1}}, [], "Did you mean 'temperature'"),
        ({"defaults": {"top_k": "x"}}, [], "has \"x\" for 'top_k'"),
        ({"profile": {}}, ["--profile", "big"], "unknown field"),
    ],
    ids=["profile", "option", "value", "file"],
)
def test_a_mistake_is_named_before_a_model_is_loaded(
    content, args, says, settings, cli, fake
):
    settings(**content)

    result = cli("generate", "a", *args)

    assert result.exit_code == 2
    assert says in " ".join(result.stderr.replace("│", "").split())
    assert fake.created == []


@pytest.mark.filterwarnings("default::unillm.settings.SettingsWarning")
def test_a_file_that_cannot_be_read_is_said_once_and_stops_no_command(settings, cli):
    settings_file().write_text("{")

    result = cli("generate", "Count from 3 to 9:")

    assert result.stdout == "3 4 5 6 7 8 9\n"
    assert result.stderr.count("is not a file of settings") == 1
    assert "It has no effect" in result.stderr
    assert result.exit_code == 0


def test_the_file_of_the_page_is_one(settings, cli, fake):
    page = (ROOT / "docs/reference/settings.md").read_text("utf-8")
    [text] = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    settings_file().write_text(text)

    cli("generate", "a", "--profile", "long")

    model, options, _ = loaded(fake)
    assert (model, options["max_model_len"]) == ("Qwen/Qwen3-8B", 32768)
    assert options["backend_options"] == {"block_size": 32}
