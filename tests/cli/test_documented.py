# SPDX-License-Identifier: Apache-2.0

"""Every command line of the pages: the program takes it, and what can run here runs.

Commands of other engines, servers and clusters are parsed alone; the tests of their
plugins, of ``serve``, ``bench``, ``compare`` and ``conformance`` run them.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from unillm.cli.app import app

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "plugins").glob("*/README.md")),
]
BLOCK = re.compile(
    r"^```\{?(?:console|bash|dockerfile)\b.*?\n(.*?)^```", re.MULTILINE | re.DOTALL
)
COMMAND = re.compile(
    r"^(?:\$ |RUN )?(?:.*\| )?unillm (.*?)(?: > \S+|\s+#.*)?$", re.MULTILINE
)
INPUTS = {
    "prompts.txt": "Count from 3 to 9:\nAdd 17 and 25:\n",
    "requests.jsonl": '{"prompt": "Count from 3 to 9:"}\n',
    "questions.jsonl": '{"question": "Add 1 and 2", "id": 1}\n',
}
ELSEWHERE = re.compile(
    r"^(serve|bench|compare|conformance|new-backend|env add|env check)"
    r"|vllm|tensorrt|ctranslate2|onnxruntime|Qwen|\./qwen|meta-llama|echo|--ray"
)


def documented():
    """The command lines, each once, without the program's name."""
    found = {}
    for page in PAGES:
        for block in BLOCK.findall(page.read_text("utf-8")):
            for line in COMMAND.findall(re.sub(r"\\\n\s*", "", block)):
                found.setdefault(line.strip(), page.name)
    return sorted(found)


def arguments(line):
    """The arguments, with a model and a backend in the place of the names for them."""
    return shlex.split(line.replace("MODEL", "unillm/tiny").replace("…", "x"))


def parse(command, args, parent=None):
    """Parse a command line as the program does, and run nothing."""
    context = command.make_context(command.name, list(args), parent=parent)
    if hasattr(command, "resolve_command"):
        rest = [*getattr(context, "_protected_args", ()), *context.args]
        _, below, below_args = command.resolve_command(context, rest)
        parse(below, below_args, context)


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    """No settings and no cache of the machine; the inputs of the pages are here."""
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "UNILLM_CACHE", "HF_HUB_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    for name, content in INPUTS.items():
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)


def test_the_pages_have_commands():
    assert len(documented()) > 40
    assert any(ELSEWHERE.search(line) for line in documented())


@pytest.mark.parametrize("line", documented())
def test_the_program_takes_it(line):
    parse(typer.main.get_command(app), arguments(line))


@pytest.mark.parametrize(
    "line", [line for line in documented() if not ELSEWHERE.search(line)]
)
def test_it_runs(line, cli):
    args = [each.replace("BACKEND", "transformers") for each in arguments(line)]

    result = cli(*args, input="Add 1 and 2:\n")

    assert result.exit_code == 0, result.output
