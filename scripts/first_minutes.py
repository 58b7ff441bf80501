# SPDX-License-Identifier: Apache-2.0

"""Follow the pages as a newcomer would, and print each command with its seconds.

    python scripts/first_minutes.py --model FOLDER > docs/tutorials/first-minutes.txt

Everything happens in a new folder with a new home: a clone of this repository, a new
environment, the bundled model, a checkpoint in FOLDER, 500 texts that become records by
a JSON schema, and the same prompts on a second engine. A command that fails ends it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
SHOWN_LINES = 14
STEPS = (
    "git clone -q REPOSITORY unillm && cd unillm",
    "python -m venv .venv && . .venv/bin/activate",
    'pip install -q -c constraints.txt ".[transformers]"',
    'unillm generate "Count from 3 to 9:"',
    "unillm backends",
    "unillm inspect model",
    "python examples/quickstart.py",
    'unillm generate --model model --chat "Add 17 and 25:" --temperature 0',
    "python examples/cookbook/extract.py texts.jsonl records.jsonl --model model",
    "pip install -q -c constraints.txt ./plugins/unillm-ctranslate2",
    'unillm generate --model model --backend ctranslate2 "Count from 3 to 9:"',
    "unillm compare model --backend transformers --backend ctranslate2 --dtype float32",
)
"""What is typed. REPOSITORY is this one; `model` is a link to the checkpoint."""


DROPPED = ("HF_", "OMP_", "PYTHON", "UNILLM_", "VIRTUAL_ENV", "XDG_")
"""Beginnings of environment variables that a new machine does not have."""


def main() -> None:
    """Run the steps in one shell, as far as they succeed."""
    parser = argparse.ArgumentParser(description="The first minutes of a newcomer.")
    parser.add_argument("--model", type=Path, required=True, help="a checkpoint")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seconds = follow(Path(folder), given.model.resolve())
    print(f"\n# {seconds / 60:.1f} minutes, {os.cpu_count()} cores")


def follow(folder: Path, model: Path) -> float:
    """Print a transcript, and return the seconds of all commands."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(DROPPED)}
    shell = subprocess.Popen(  # noqa: S603 - the shell that runs the steps
        [shutil.which("bash") or "/bin/bash"],
        cwd=folder,
        env={**kept, "HOME": str(folder), "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    total = 0.0
    with shell:
        for step in STEPS:
            if step.startswith("unillm inspect"):
                checkout = folder / "unillm"
                (checkout / "model").symlink_to(model)
                rows = [{"id": n, "text": f"Review number {n}."} for n in range(500)]
                lines = "".join(json.dumps(row) + "\n" for row in rows)
                (checkout / "texts.jsonl").write_text(lines)
            took = run(shell, step, home=str(folder))
            total += took
        assert shell.stdin is not None
        shell.stdin.close()
    return total


def run(shell: subprocess.Popen[str], step: str, *, home: str) -> float:
    """Run a command in the shell, and print it with its seconds and its output."""
    assert shell.stdin is not None
    assert shell.stdout is not None
    started = time.monotonic()
    command = step.replace("REPOSITORY", f"file://{ROOT}")
    shell.stdin.write(f"{command}\necho; echo end of command $?\n")
    shell.stdin.flush()
    lines: list[str] = []
    for line in shell.stdout:
        if line.startswith("end of command"):
            break
        lines.append(line.rstrip().replace(home, "~"))
    took = time.monotonic() - started
    print(f"$ {step}    # {took:.1f} s")
    for text in lines[:SHOWN_LINES]:
        if text:
            print(text)
    print("…" if len(lines) > SHOWN_LINES + 1 else "", flush=True)
    if not line.endswith(" 0\n"):
        sys.exit(f"The step failed: {step}")
    return took


if __name__ == "__main__":
    main()
