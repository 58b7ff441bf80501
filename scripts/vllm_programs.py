# SPDX-License-Identifier: Apache-2.0

"""vLLM's own examples and offline tests on unillm: which pass, which are refused, why.

``python scripts/vllm_programs.py SOURCES`` takes the unpacked sources of vLLM 0.32 (its
sdist), runs the examples that use the offline classes and the tests of the offline API
with the imports changed, on the backend that ``UNILLM_BACKEND`` names, and records the
outcomes. ``--page`` writes the tables of ``docs/reference/vllm-api.md`` from the record
and runs nothing. Nothing of the sources is kept.

A stand-in takes the place of every model (`scripts/vllm_stand_ins.py`). The tests need
an installed vLLM, whose internals they import besides the names that unillm has.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "tests" / "programs" / "vllm_programs.json"
PAGE = ROOT / "docs" / "reference" / "vllm-api.md"
TIMEOUT_S = 300

EXAMPLES = (
    *("basic/offline_inference/*.py", "deployment/*.py", "features/*/*.py"),
    *("generate/*.py", "observability/metrics/*.py", "rl/batch_invariance/*.py"),
    *("rl/pause_resume/*.py", "tool_calling/*offline.py"),
)
"""Examples that use the offline classes for text; the others serve, or take media."""

TESTS = """
    test_outputs.py test_sampling_params.py test_logprobs.py test_regression.py
    detokenizer/test_disable_detokenization.py detokenizer/test_min_tokens.py
    detokenizer/test_stop_reason.py detokenizer/test_stop_strings.py
    samplers/test_beam_search.py samplers/test_ignore_eos.py samplers/test_logprobs.py
    samplers/test_no_bad_words.py samplers/test_non_finite_params.py
    entrypoints/llm/test_chat.py entrypoints/llm/test_collective_rpc.py
    entrypoints/llm/test_generate.py entrypoints/llm/test_gpu_utilization.py
    entrypoints/llm/test_prompt_validation.py
    entrypoints/llm/test_struct_output_generate.py v1/e2e/general/test_min_tokens.py
    v1/sample/test_logprobs.py v1/sample/test_sampling_params_e2e.py
    v1/sample/test_trace_replay_params.py
"""
"""Files of tests of the offline API, in ``tests``."""

_NAMES: dict[str, set[str]] = {}


def main() -> None:
    """Run what the command line asks for, and write the record or the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sources", type=Path, nargs="?")
    parser.add_argument("--page", action="store_true")
    parser.add_argument("--only", choices=["examples", "tests"])
    given = parser.parse_args()
    record = json.loads(RECORD.read_text("utf-8")) if RECORD.exists() else {}
    if given.sources:
        backend = os.environ["UNILLM_BACKEND"]
        found = record.setdefault(backend, {})
        if given.only != "tests":
            found["examples"] = run_examples(given.sources)
        if given.only != "examples":
            found["tests"] = run_tests(given.sources)
        RECORD.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", "utf-8")
    if given.page:
        PAGE.write_text(with_tables(PAGE.read_text("utf-8"), record), "utf-8")


# ---------------------------------------------------------------------------- running


def run_examples(sources: Path) -> dict[str, str]:
    """Return the outcome of each example, by its path: "" where it passes."""
    folder = sources / "examples"
    paths = sorted(path for pattern in EXAMPLES for path in folder.glob(pattern))
    offline = re.compile(r"\bLLM\(|EngineArgs|LLMEngine")
    return {
        path.relative_to(folder).as_posix(): _run_example(path)
        for path in paths
        if offline.search(path.read_text("utf-8"))
    }


def _run_example(path: Path) -> str:
    stand_ins = str(ROOT / "scripts" / "vllm_stand_ins.py")
    try:
        done = subprocess.run(  # noqa: S603
            [sys.executable, stand_ins, str(path)],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
            cwd=tempfile.gettempdir(),
            env=_environment(),
        )
    except subprocess.TimeoutExpired:
        return f"no end in {TIMEOUT_S} s"
    if done.returncode == 0:
        return ""
    lines = [line for line in done.stderr.splitlines() if re.match(r"[\w.]+", line)]
    return _shortened(lines[-1] if lines else f"exit code {done.returncode}")


def run_tests(sources: Path) -> dict[str, dict[str, Any]]:
    """Return the counts and the reasons of each file of tests."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(sources / "tests", folder / "tests")
        for path in (folder / "tests").rglob("*.py"):
            changed = with_imports_changed(path.read_text("utf-8"))
            path.write_text(changed, "utf-8")
        return {path: _run_file(folder, f"tests/{path}") for path in TESTS.split()}


def _run_file(folder: Path, path: str) -> dict[str, Any]:
    report = folder / "report.xml"
    report.unlink(missing_ok=True)
    environment = _environment()
    environment["PYTHONPATH"] += f":{ROOT / 'scripts'}:{folder}"
    subprocess.run(  # noqa: S603
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "vllm_stand_ins", path),
            *("-W", "ignore", f"--junit-xml={report}", f"--timeout={TIMEOUT_S}"),
        ],
        capture_output=True,
        check=False,
        cwd=folder,
        env=environment,
    )
    if not report.exists():
        return {"passed": 0, "reasons": {"the process ended": 1}}
    return counted(ET.parse(report).getroot())  # noqa: S314 - we wrote it


def counted(report: ET.Element) -> dict[str, Any]:
    """Return how many tests passed, and how many did not for each reason."""
    reasons: Counter[str] = Counter()
    passed = 0
    for case in report.iter("testcase"):
        problem = next((each for each in case if each.tag in _PROBLEMS), None)
        if problem is None:
            passed += 1
        elif problem.tag != "skipped":
            reasons[_shortened(problem.get("message", ""))] += 1
    return {"passed": passed, "reasons": dict(reasons.most_common())}


_PROBLEMS = ("failure", "error", "skipped")


def _environment() -> dict[str, str]:
    given = os.environ
    return {**given, "HF_HUB_OFFLINE": "1", "PYTHONPATH": given.get("PYTHONPATH", "")}


def _shortened(message: str) -> str:
    """Return the class and the first sentence of an error, without what varies."""
    line = " ".join(message.split())
    line = re.sub(r"^(unillm\.errors|vllm\.\w+)\.", "", line)
    line = re.sub(r"0x[0-9a-f]+|/tmp/\S+", "…", line)
    first = re.split(r"(?<=[^.\d])\. |: docs/|\bassert\b", line)[0]
    return first[:160].rstrip(" :")


# -------------------------------------------------------------- changing the imports


def with_imports_changed(program: str) -> str:
    """Return a program that imports from `unillm.vllm_api` the names that it has."""
    import_ = r"^([ \t]*)from (vllm[\w.]*) import (\([^)]*\)|[^\n(]*)"
    return re.sub(import_, _changed, program, flags=re.MULTILINE)


def _changed(found: re.Match[str]) -> str:
    indent, module, names = found.groups()
    [statement] = ast.parse(f"from {module} import {names}").body
    assert isinstance(statement, ast.ImportFrom)
    ours = [each for each in statement.names if each.name in _names_in(module)]
    others = [each for each in statement.names if each not in ours]
    path = module.replace("vllm", "unillm.vllm_api", 1)
    return "\n".join(
        indent + ast.unparse(ast.ImportFrom(origin, aliases, 0))
        for origin, aliases in ((path, ours), (module, others))
        if aliases
    )


def _names_in(module: str) -> set[str]:
    """Return the public names of a module of `unillm.vllm_api`."""
    if module not in _NAMES:
        path = module.replace("vllm", "unillm.vllm_api", 1)
        try:
            found = __import__(path, fromlist=["*"])
        except ModuleNotFoundError:
            _NAMES[module] = set()
        else:
            _NAMES[module] = set(getattr(found, "__all__", dir(found)))
    return _NAMES[module]


# ------------------------------------------------------------------------------- page


def with_tables(page: str, record: dict[str, Any]) -> str:
    """Return the page with the tables of the record."""
    tables = {"examples": examples_table(record), "tests": tests_table(record)}
    for name, table in tables.items():
        mark = f"<!-- of vLLM: {name} -->"
        page = re.sub(
            rf"{mark}\n\n.*?(?=\n\n|\Z)",
            lambda _, mark=mark, table=table: f"{mark}\n\n{table}",
            page,
            flags=re.DOTALL,
        )
    return page


def examples_table(record: dict[str, Any]) -> str:
    """Return a row for each example."""
    backends = sorted(record)
    paths = sorted({path for each in record.values() for path in each["examples"]})
    rows = [_row("example", *backends), _row(*["---"] * (len(backends) + 1))]
    for path in paths:
        outcomes = [record[each]["examples"].get(path, "not run") for each in backends]
        rows.append(_row(f"`{path}`", *(each or "passes" for each in outcomes)))
    counts = [
        f"{sum(not each for each in record[name]['examples'].values())} of {len(paths)}"
        for name in backends
    ]
    return "\n".join([*rows, _row("**pass**", *counts)])


def tests_table(record: dict[str, Any]) -> str:
    """Return a row for each file of tests."""
    backends = sorted(record)
    paths = sorted({path for each in record.values() for path in each["tests"]})
    rows = [_row("tests", *backends), _row(*["---"] * (len(backends) + 1))]
    for path in paths:
        found = [record[each]["tests"].get(path) for each in backends]
        rows.append(_row(f"`{path}`", *map(_outcome, found)))
    counts = []
    for name in backends:
        files = record[name]["tests"].values()
        passed = sum(each["passed"] for each in files)
        others = sum(sum(each["reasons"].values()) for each in files)
        counts.append(f"{passed} of {passed + others}")
    return "\n".join([*rows, _row("**pass**", *counts)])


def _outcome(found: dict[str, Any] | None) -> str:
    if found is None:
        return "not run"
    reasons = [f"{count} × {why}" for why, count in found["reasons"].items()]
    return "; ".join([f"{found['passed']} pass", *reasons])


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', '·') for cell in cells)} |"


if __name__ == "__main__":
    main()
