# SPDX-License-Identifier: Apache-2.0

"""Programs for vLLM, its examples and its tests on unillm: which pass, and why not.

``python scripts/vllm_programs.py programs`` runs ``tests/programs``, on the backend
that ``UNILLM_BACKEND`` names, and records the outcomes. With ``examples`` and ``tests``
it runs those of vLLM 0.32, whose unpacked sources ``--sources`` names: the examples
that use the offline classes, and the tests of the offline API with the imports changed.
``page`` writes the tables of ``docs/reference/vllm-api.md`` from the record. Nothing of
the sources is kept. ``--only`` runs the rows alone whose path ends with one of its
words, and leaves the others of the record as they are.

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
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "tests" / "programs" / "vllm_programs.json"
PAGE = ROOT / "docs" / "reference" / "vllm-api.md"
TIMEOUT_S = 900
"""Limit of an example or of one test; real vLLM takes a minute to start."""

EXAMPLES = (
    *("basic/offline_inference/*.py", "deployment/*.py", "features/*/*.py"),
    *("generate/*.py", "observability/metrics/*.py", "rl/batch_invariance/*.py"),
    *("rl/pause_resume/*.py", "tool_calling/*offline.py"),
)
"""Examples that use the offline classes for text; the others serve, or take media."""

TESTS = """
    test_outputs.py samplers/test_non_finite_params.py samplers/test_ignore_eos.py
    samplers/test_logprobs.py samplers/test_beam_search.py samplers/test_no_bad_words.py
    detokenizer/test_disable_detokenization.py detokenizer/test_stop_reason.py
    detokenizer/test_stop_strings.py entrypoints/llm/test_generate.py
    entrypoints/llm/test_chat.py entrypoints/llm/test_prompt_validation.py
    entrypoints/llm/test_gpu_utilization.py
    v1/sample/test_sampling_params_e2e.py v1/e2e/general/test_min_tokens.py
    entrypoints/llm/test_struct_output_generate.py v1/sample/test_logprobs.py
    test_regression.py
"""
"""Files of tests of the offline API, in ``tests``; others test vLLM's internals.

``test_collective_rpc.py`` is left out: without a GPU it skips in a child process, and
counts as passed.
"""

PROGRAMS = {
    "evalplus": ("EvalPlus's decoder", "evalplus", ""),
    "langchain": ("LangChain's `VLLM`", "langchain-community", ""),
    "llama_index": ("LlamaIndex's `Vllm`", "llama-index-llms-vllm", ""),
    "lm_eval": ("lm-eval's `vllm`, with the numbers of its `hf`", "lm-eval", ""),
    "outlines": ("Outlines, with each kind of output type", "outlines", ""),
    "trl": (
        "TRL's generation in a training process",
        "trl",
        "weights do not change while an engine runs",
    ),
}
"""By the word in the name of the test: the program, its distribution, and the reason
why it is refused."""

REFUSED_BY_VLLM = {"llama_index": "vLLM's own `SamplingParams` has no `best_of`"}
"""By the same word: why vLLM's own objects, where it is installed, refuse a program."""

_NAMES: dict[str, set[str]] = {}


def main() -> None:
    """Run what the command line asks for, and write the record or the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    kinds = ("programs", "examples", "tests", "page")
    parser.add_argument("kinds", nargs="+", choices=kinds)
    parser.add_argument("--sources", type=Path)
    parser.add_argument("--only", nargs="+", default=[""], metavar="PATH")
    given = parser.parse_args()
    for kind in given.kinds:
        if kind == "page":
            record = read_record()
            PAGE.write_text(with_tables(PAGE.read_text("utf-8"), record), "utf-8")
            continue
        if kind == "programs":
            outcomes: Iterable[tuple[str, Any]] = run_programs()
        elif given.sources is None:
            parser.error(f"{kind} needs --sources, the unpacked sources of vLLM 0.32")
        else:
            run = run_examples if kind == "examples" else run_tests
            outcomes = run(given.sources, tuple(given.only))
        for name, outcome in outcomes:
            record = read_record()  # again: another backend may have written it
            of_backend = record[kind].setdefault(os.environ["UNILLM_BACKEND"], {})
            of_backend[name] = outcome
            text = json.dumps(record, indent=1, sort_keys=True)
            RECORD.write_text(f"{text}\n", "utf-8")


def read_record() -> dict[str, Any]:
    """Return the outcomes by kind and backend."""
    found: dict[str, Any] = json.loads(RECORD.read_text("utf-8"))
    return found


# ---------------------------------------------------------------------------- running


def run_programs() -> Iterator[tuple[str, str]]:
    """Yield each program, by its name and version, with the outcome."""
    with tempfile.TemporaryDirectory() as name:
        report = Path(name) / "report.xml"
        folder = "tests/programs"
        subprocess.run(  # noqa: S603
            [
                *(sys.executable, "-m", "pytest", "-q", f"--confcutdir={folder}"),
                *("-W", "default", folder, f"--junit-xml={report}"),
            ],
            check=False,
            cwd=ROOT,
        )
        cases = {
            case.get("name", ""): [each.tag for each in case if each.tag in _PROBLEMS]
            for case in ET.parse(report).getroot().iter("testcase")  # noqa: S314
        }
    installed = find_spec("vllm") is not None
    for word, (title, distribution, refused) in PROGRAMS.items():
        why = refused or (installed and REFUSED_BY_VLLM.get(word))
        [problems] = [tags for name, tags in cases.items() if f"_{word}" in name]
        passed = f"refused: {why}" if why else "passes"
        if problems == ["skipped"]:
            continue
        key = f"{title} ({distribution} {version(distribution)})"
        yield key, "fails" if problems else passed


def run_examples(
    sources: Path, only: tuple[str, ...] = ("",)
) -> Iterator[tuple[str, str]]:
    """Yield each example, by its path, with the outcome: "" where it passes.

    Args:
        sources: The unpacked sources of vLLM.
        only: The ends of the paths to run.
    """
    folder = sources / "examples"
    paths = sorted(path for pattern in EXAMPLES for path in folder.glob(pattern))
    offline = re.compile(r"\bLLM\(|EngineArgs|LLMEngine")
    for path in paths:
        if str(path).endswith(only) and offline.search(path.read_text("utf-8")):
            yield path.relative_to(folder).as_posix(), _run_example(path)


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
    # Warnings may follow the error.
    error = re.findall(r"^[\w.]+(?:Error|Exception)\b.*", done.stderr, re.MULTILINE)
    return _shortened(error[-1] if error else f"exit code {done.returncode}")


def run_tests(
    sources: Path, only: tuple[str, ...] = ("",)
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each file of tests with its counts and reasons; args as `run_examples`."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        shutil.copytree(sources / "tests", folder / "tests")
        for path in (folder / "tests").rglob("*.py"):
            changed = with_imports_changed(path.read_text("utf-8"))
            path.write_text(_closing(changed), "utf-8")
        for name in TESTS.split():
            if name.endswith(only):
                yield name, _run_file(folder, f"tests/{name}")


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
    line = re.sub(r"0x[0-9a-f]+|/tmp/\S+|\(host=.*", "…", line)
    first = re.split(r"(?<=[^.\d])\. |: docs/|\bassert\b", line)[0]
    return (first or line)[:160].rstrip(" :")


# -------------------------------------------------------------- changing the imports


def with_imports_changed(program: str) -> str:
    """Return a program that imports from `unillm.vllm_api` the names that it has."""
    import_ = r"^([ \t]*)from (vllm[\w.]*) import (\([^)]*\)|[^\n(]*)"
    return re.sub(import_, _changed, program, flags=re.MULTILINE)


def _closing(program: str) -> str:
    """Let the runner of vLLM's tests close the `LLM`, not shut down vLLM's engine."""
    before, runner, after = program.partition("class VllmRunner")
    end = "def __exit__(self, exc_type, exc_value, traceback):\n"
    return (
        before + runner + after.replace(end, f"{end}        return self.llm.close()\n")
    )


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
    for name, table in tables(record).items():
        mark = f"<!-- of vLLM: {name} -->"
        before, _, after = page.partition(f"{mark}\n\n")
        _, blank, rest = after.partition("\n\n")
        page = f"{before}{mark}\n\n{table}{blank or chr(10)}{rest}"
    return page


def tables(record: dict[str, Any]) -> dict[str, str]:
    """Return the tables of the page by kind: a row for each program or file."""
    return {
        "programs": _table(record["programs"], "program", str),
        "examples": _table(record["examples"], "example", lambda why: why or "passes"),
        "tests": _table(record["tests"], "tests", _outcome),
    }


def _table(record: dict[str, Any], head: str, shown: Callable[[Any], str]) -> str:
    backends = sorted(record)
    names = sorted({name for found in record.values() for name in found})
    rows = [_row(head, *backends), _row(*["---"] * (len(backends) + 1))]
    for name in names:
        cells = [record[each].get(name) for each in backends]
        title = name if head == "program" else f"`{name}`"
        rows.append(_row(title, *("not run" if c is None else shown(c) for c in cells)))
    totals = [_total(list(record[each].values())) for each in backends]
    return "\n".join([*rows, _row("**pass**", *totals)])


def _total(outcomes: list[Any]) -> str:
    """Return how many pass of how many."""
    if all(isinstance(each, str) for each in outcomes):
        passed, count = sum(each in ("", "passes") for each in outcomes), len(outcomes)
    else:
        passed = sum(each["passed"] for each in outcomes)
        count = passed + sum(sum(each["reasons"].values()) for each in outcomes)
    return f"{passed} of {count}"


def _outcome(found: dict[str, Any]) -> str:
    reasons = [f"{count} × {why}" for why, count in found["reasons"].items()]
    return "; ".join([f"{found['passed']} pass", *reasons])


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', '·') for cell in cells)} |"


if __name__ == "__main__":
    main()
