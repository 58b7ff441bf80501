# SPDX-License-Identifier: Apache-2.0

"""Mutation testing of `scheduling` and `text`: does a test fail for each change?

mutmut changes one thing at a time and runs the tests that reach the changed function.
This works on a copy, and adds three things to it:

- ``@override`` is left out of the copy, because mutmut leaves decorated functions out.
- Of many mutants a random share is tried, the same one for the same seed.
- What changes nothing but the words of an error is left out: tests say what a message
  has to name, not how it is put.

    python scripts/mutate.py FOLDER [--count 600] [--seed 0] [--atleast 0.9]

FOLDER is for the copy; results are kept there, so only what survived is tried again.
"""

from __future__ import annotations

import argparse
import ast
import collections
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("scheduling", "text")
FIRST = "unillm.scheduling.queue.*"
"""Tried before the others are known by name; few, and quick."""
BATCH = 100
SURVIVED, NO_TEST = (0,), (5, 33)
"""mutmut's exit codes of mutants that no test noticed. Others are failures and
timeouts; `None` was not tried."""


def main() -> int:
    """Copy, mutate, report; 1 if too few mutants were killed."""
    options = _options()
    folder: Path = options.folder
    _copy(folder)
    _mutmut(folder, FIRST)
    names = [
        name
        for module in _modules(folder)
        for name in _without_wording(module)
        if f".{options.only}" in name
    ]
    random.Random(options.seed).shuffle(names)
    chosen = names[: options.count]
    for begin in range(0, len(chosen), BATCH):
        codes = _codes(folder)
        batch = chosen[begin : begin + BATCH]
        left = [n for n in batch if codes[n] in (None, *SURVIVED, *NO_TEST)]
        if left:
            _mutmut(folder, *left)
    return _report(folder, chosen, of=len(names), at_least=options.at_least)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=600, help="mutants to try")
    parser.add_argument("--seed", type=int, default=0, help="of the choice")
    parser.add_argument("--only", default="", help="such as text.prompts")
    parser.add_argument("--at-least", type=float, default=0.9, help="share killed")
    return parser.parse_args()


def _copy(folder: Path) -> None:
    for name in ("src", "tests"):
        shutil.copytree(
            ROOT / name,
            folder / name,
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    for name in ("pyproject.toml", "conftest.py"):
        shutil.copy(ROOT / name, folder / name)
    for room in ROOMS:
        for file in (folder / "src" / "unillm" / room).glob("*.py"):
            text = re.sub(r"^ *@override\n", "", file.read_text(), flags=re.MULTILINE)
            file.write_text(text)


def _mutmut(folder: Path, *names: str) -> None:
    environment = {
        **os.environ,
        "HYPOTHESIS_PROFILE": "mutation",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": "1",
    }
    subprocess.run(  # noqa: S603 - names come from mutmut
        [sys.executable, "-m", "mutmut", "run", "--max-children", "1", *names],
        cwd=folder,
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
    )


# ---------------------------------------------------------------------- what there is


def _modules(folder: Path) -> Iterator[Path]:
    for room in ROOMS:
        yield from sorted((folder / "mutants/src/unillm" / room).glob("*.py"))


def _codes(folder: Path) -> Mapping[str, int | None]:
    codes = {}
    for module in _modules(folder):
        told = json.loads(Path(f"{module}.meta").read_text())
        codes.update(told["exit_code_by_key"])
    return codes


def _functions(module: Path) -> Mapping[str, ast.AST]:
    """Return the original functions and the mutants of a module, by name."""
    return {
        node.name: node
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and "__mutmut_" in node.name
    }


def _original(name: str) -> str:
    return f"{name.rpartition('__mutmut_')[0]}__mutmut_orig"


def _without_wording(module: Path) -> Iterator[str]:
    """Yield the mutants of a module that change more than the words of an error."""
    functions = _functions(module)
    silent = {name: _silenced(node) for name, node in functions.items()}
    names = json.loads(Path(f"{module}.meta").read_text())["exit_code_by_key"]
    for name in sorted(names):
        short = name.rpartition(".")[2]
        if silent[short] != silent[_original(short)]:
            yield name


class _Silence(ast.NodeTransformer):
    """Empties the texts that an error is made of."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name.endswith("Error") or name == "_refused":
            for part in ast.walk(node):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    part.value = ""
        self.generic_visit(node)
        return node


def _silenced(function: ast.AST) -> str:
    copy = ast.parse(ast.unparse(function))
    copy.body[0].name = ""  # type: ignore[attr-defined]
    return ast.dump(_Silence().visit(copy))


# ------------------------------------------------------------------------- the report


def _report(folder: Path, chosen: list[str], *, of: int, at_least: float) -> int:
    codes = _codes(folder)
    unnoticed = {name for name in chosen if codes[name] in (*SURVIVED, *NO_TEST)}
    for file in _modules(folder):
        functions = _functions(file)
        for name in sorted(unnoticed):
            short = name.rpartition(".")[2]
            if name.startswith(_dotted(file)):
                _print_change(name, functions[_original(short)], functions[short])
    tried = collections.Counter(map(_module_of, chosen))
    killed = collections.Counter(_module_of(n) for n in chosen if n not in unnoticed)
    for name in sorted(tried):
        print(f"{name}: {killed[name]} of {tried[name]} killed")
    share = killed.total() / max(1, tried.total())
    print(
        json.dumps(
            {
                "mutants": of,
                "tried": tried.total(),
                "killed": killed.total(),
                "share": round(share, 4),
            }
        )
    )
    return 0 if share >= at_least else 1


def _dotted(file: Path) -> str:
    return f"unillm.{file.parent.name}.{file.stem}."


def _module_of(name: str) -> str:
    return ".".join(name.split(".")[1:3])


def _print_change(name: str, before: ast.AST, after: ast.AST) -> None:
    lines = [ast.unparse(each).splitlines()[1:] for each in (before, after)]
    print(name)
    for old, new in zip(*lines, strict=False):
        if old != new:
            print(f"  - {old.strip()}")
            print(f"  + {new.strip()}")


if __name__ == "__main__":
    sys.exit(main())
