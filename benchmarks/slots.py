# SPDX-License-Identifier: Apache-2.0

"""Tokens a second of the slots, beside other engines on the same CPU.

    python benchmarks/slots.py --models 10M --engines unillm,static,generate_batch,floor
    python benchmarks/slots.py --engines unillm,vllm --vllm-python ../vllm/bin/python

Every engine has its own process, with the same number of threads, and generates the
same numbers of greedy tokens for the same prompts. The engines run in turn, A B A B,
while the others wait. Loading and warm-up, which compiles, are measured apart. On a
machine with other programs, compare tokens by processor second. The last line is JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

import attrs
from typing_extensions import Self
from workload import MAX_MODEL_LEN, MODELS, Workload, draw, make_model

import unillm

WORKERS = Path(__file__).with_name("slot_engines.py")
ENGINES = ("unillm", "floor", "static", "generate_batch")
VLLM = ("vllm", "vllm-eager")
OTHERS = (
    "unillm-default",
    "unillm-packed",
    "unillm-eager",
    "ctranslate2",
    "ctranslate2-wide",
    "floor-eager",
)


class Worker:
    """A process with a loaded and warm engine."""

    def __init__(self, engine: str, python: str, model: Path, options: Any) -> None:
        self.engine = engine
        threads = str(options.threads)
        self._process = subprocess.Popen(  # noqa: S603 - a script beside this one
            [python, str(WORKERS), engine],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if options.verbose else subprocess.DEVNULL,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
        )
        warm_up = draw(3 * options.slots, equal=False, seed=1)
        warm_up = warm_up.first(3 * options.slots, longest=options.warm_up)
        self.started = self._ask(
            engine={
                "path": str(model),
                "slots": options.slots,
                "max_model_len": MAX_MODEL_LEN,
            },
            warm_up=attrs.asdict(warm_up),
        )
        self.tokens_per_s: list[float] = []
        self.tokens_per_cpu_s: list[float] = []
        self.checksums: list[int] = []

    def run(self, workload: Workload) -> None:
        """Run all requests, and record the tokens a second."""
        answer = self._ask(**attrs.asdict(workload))
        if answer["counts"] != workload.lengths:
            raise RuntimeError(f"{self.engine} returned other numbers of tokens")
        self.tokens_per_s.append(workload.tokens / answer["seconds"])
        self.tokens_per_cpu_s.append(workload.tokens / answer["cpu_seconds"])
        self.checksums = answer["checksums"]

    def _ask(self, **question: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(question), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.engine} ended; --verbose shows why")
        return dict(json.loads(line))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def main() -> None:
    """Run the chosen engines, model by model."""
    options = read_options()
    workload = draw(options.requests, equal=options.lengths == "equal")
    conditions = describe(options, workload)
    print("\n".join(f"{name}: {value}" for name, value in conditions.items()))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models:
            rows += compare(make_model(name, Path(folder)), workload, options)
    print(json.dumps({"conditions": conditions, "results": rows}))


def compare(model: Path, workload: Workload, options: Any) -> list[dict[str, Any]]:
    """Run all engines on one model in turn; print and return a row for each."""
    with contextlib.ExitStack() as running:
        workers = [
            running.enter_context(
                Worker(engine, python_of(engine, options), model, options)
            )
            for engine in options.engines
        ]
        for _ in range(options.rounds):
            for worker in workers:
                worker.run(workload)
    print(f"\n{model.name}\n{'engine':>16} {'tok/s':>8} {'ratio':>6}  runs")
    return [print_row(model.name, worker, workers[0]) for worker in workers]


def print_row(model: str, worker: Worker, first: Worker) -> dict[str, Any]:
    """Print an engine's rate, and the ratio of the first engine's rate to it."""
    pairs = zip(first.tokens_per_s, worker.tokens_per_s, strict=True)
    row = {
        "model": model,
        "engine": worker.engine,
        "tokens_per_s": round(statistics.median(worker.tokens_per_s), 1),
        "runs": [round(rate, 1) for rate in worker.tokens_per_s],
        "tokens_per_cpu_s": round(statistics.median(worker.tokens_per_cpu_s), 1),
        f"{first.engine}_is_times": round(
            statistics.median(one / other for one, other in pairs), 3
        ),
        f"requests_equal_to_{first.engine}": sum(
            one == other
            for one, other in zip(first.checksums, worker.checksums, strict=True)
        ),
        **{name: round(value, 1) for name, value in worker.started.items()},
    }
    ratio = row[f"{first.engine}_is_times"]
    runs = ", ".join(f"{rate:.0f}" for rate in worker.tokens_per_s)
    print(f"{worker.engine:>16} {row['tokens_per_s']:8.0f} {ratio:6.2f}  {runs}")
    return row


def python_of(engine: str, options: Any) -> str:
    """Return the Python that has an engine."""
    return str(options.vllm_python) if engine in VLLM else sys.executable


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = (*ENGINES, *VLLM, *OTHERS)
    parser.add_argument("--models", type=_list_of(tuple(MODELS)), default=["10M"])
    parser.add_argument("--engines", type=_list_of(names), default=list(ENGINES))
    parser.add_argument(
        "--vllm-python", type=Path, help="Python with vLLM, for vllm and vllm-eager"
    )
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--requests", type=int, default=128)
    parser.add_argument(
        "--lengths", choices=("lognormal", "equal"), default="lognormal"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--warm-up",
        type=int,
        default=40,
        help="new tokens of each request of the warm-up",
    )
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--verbose", action="store_true", help="show the engines' output"
    )
    options = parser.parse_args()
    if options.vllm_python is None and set(options.engines) & set(VLLM):
        parser.error("vllm needs --vllm-python, the path of a Python with vLLM")
    return options


def _list_of(known: tuple[str, ...]) -> Callable[[str], list[str]]:
    def read(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is not one of {known}")
        return names

    return read


def describe(options: argparse.Namespace, workload: Workload) -> dict[str, Any]:
    """Return the hardware, versions and options of the measurement."""
    prompts = [len(prompt) for prompt in workload.prompts]
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": options.threads,
        "slots": options.slots,
        "requests": len(workload.prompts),
        "lengths": options.lengths,
        "output_tokens": workload.tokens,
        "output_mean": round(statistics.mean(workload.lengths), 1),
        "output_max": max(workload.lengths),
        "prompt_mean": round(statistics.mean(prompts), 1),
        "prompt_max": max(prompts),
        "dtype": "float32",
        "rounds": options.rounds,
        "python": platform.python_version(),
        "torch": version("torch"),
        "transformers": version("transformers"),
        "vllm": vllm_version(options),
        "unillm": unillm.__version__,
    }


def processor() -> str:
    """Return the name of the processor."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def vllm_version(options: argparse.Namespace) -> str | None:
    """Return the version of vLLM in its environment, without importing it."""
    if options.vllm_python is None:
        return None
    code = (
        "from importlib.metadata import packages_distributions as owners, version;"
        "name = owners()['vllm'][0]; print(name, version(name))"
    )
    command = [options.vllm_python, "-c", code]
    return subprocess.run(  # noqa: S603 - the caller named it
        command, check=True, capture_output=True, text=True
    ).stdout.strip()


if __name__ == "__main__":
    main()
