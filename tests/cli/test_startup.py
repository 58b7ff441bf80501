# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import typer
from rich.text import Text

from unillm.cli.app import app
from unillm.model.find import find_model

HEAVY = {
    "huggingface_hub",
    "numpy",
    "prompt_toolkit",
    "sentencepiece",
    "tokenizers",
    "torch",
    "tqdm",
    "transformers",
    "unillm.generator",
    "vllm",
}

_PROBE = """
import sys
from unillm.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
print("\\n".join(sys.modules), file=sys.stderr)
"""


@pytest.fixture
def imported(process_environment, tmp_path):
    """Run a command in a process of its own; return the modules that it imported."""

    def run(*args):
        done = subprocess.run(
            [sys.executable, "-c", _PROBE, *args],
            env={**process_environment, "UNILLM_CACHE": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
        return set(done.stderr.split())

    return run


@pytest.fixture
def checkpoint(tmp_path):
    """Return a directory as Qwen2 checkpoints of the hub have it, with old names."""
    path = tmp_path / "checkpoint"
    shutil.copytree(find_model("unillm/tiny"), path)
    config = json.loads((path / "config.json").read_text())
    del config["rope_parameters"], config["head_dim"]
    config |= {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}
    config |= {"torch_dtype": config.pop("dtype"), "rope_theta": 10000.0}
    (path / "config.json").write_text(json.dumps(config))
    tokenizer = json.loads((path / "tokenizer_config.json").read_text())
    tokenizer |= {"tokenizer_class": "Qwen2Tokenizer", "unk_token": None}
    (path / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return path


@pytest.mark.parametrize(
    "args",
    [
        ["--help"],
        ["generate", "--help"],
        ["chat", "--help"],
        ["inspect", "--help"],
        ["plan", "--help"],
        ["build", "--help"],
        ["cache", "--help"],
        ["cache", "list"],
        ["--version"],
    ],
    ids=" ".join,
)
def test_a_command_without_engine_imports_nothing_heavy(args, imported):
    assert HEAVY & imported(*args) == set()


@pytest.mark.parametrize(
    "args",
    [
        ["inspect", "unillm/tiny"],
        ["inspect", "{checkpoint}", "--json"],
        ["plan", "unillm/tiny", "--backend", "transformers"],
        ["plan", "{checkpoint}", "--gpu-memory", "24GiB"],
    ],
    ids=" ".join,
)
def test_facts_of_a_model_are_read_without_torch_and_transformers(
    args, imported, checkpoint
):
    args = [arg.format(checkpoint=checkpoint) for arg in args]

    assert {"torch", "transformers"} & imported(*args) == set()


def test_the_end_of_a_command_collects_no_modules(process_environment):
    program = (
        "import atexit, gc\n"
        "atexit.register(lambda: print('frozen', gc.get_freeze_count() > 1000))\n"
        "from unillm.cli import main\n"
        "main(['--version'])"
    )

    done = subprocess.run(
        [sys.executable, "-c", program],
        env=process_environment,
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.splitlines()[-1] == "frozen True"


def test_listing_backends_imports_no_engine(imported):
    assert {"torch", "transformers", "vllm"} & imported("backends") == set()


def test_help_names_every_command_and_exit_code(cli):
    result = cli("--help")

    shown = " ".join(result.stdout.split())
    assert result.exit_code == 0
    for word in (
        "generate",
        "chat",
        "backends",
        "inspect",
        "3 the model",
        "130 interrupted",
    ):
        assert word in shown


def test_every_help_text_is_shown_whole():
    """Help reads square brackets as markup, unless a backslash comes before them."""

    def texts(command):
        yield command.help or ""
        yield command.epilog or ""
        yield from (getattr(each, "help", None) or "" for each in command.params)
        for each in getattr(command, "commands", {}).values():
            yield from texts(each)

    written = list(texts(typer.main.get_command(app)))

    assert [Text.from_markup(each).plain for each in written] == [
        each.replace("\\[", "[") for each in written
    ]


def test_version_is_one_line(cli):
    result = cli("--version")

    assert result.exit_code == 0
    assert result.stdout.startswith("unillm ")
    assert len(result.stdout.splitlines()) == 1


def test_no_command_is_a_usage_error_with_help(cli):
    result = cli()

    assert result.exit_code == 2
    assert "generate" in result.output


@pytest.mark.parametrize(
    "args",
    [
        ["generate", "--temprature", "1"],
        ["generate", "--max-tokens", "many"],
        ["generat"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_2(args, cli):
    result = cli(*args)

    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Usage" in result.stderr
