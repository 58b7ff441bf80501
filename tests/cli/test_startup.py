# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {
    "huggingface_hub",
    "numpy",
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
