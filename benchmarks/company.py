# SPDX-License-Identifier: Apache-2.0

"""Tokens a second of an engine alone and beside a busy process, by OpenMP's settings.

Usage: ``python benchmarks/company.py [--backend NAME] [--model 10M] [--rounds 2]``

Each run is a process of its own; the settings take turns. "spinning" is what GNU's
OpenMP does by itself, "one thread" needs no team, and "unillm" sets nothing, so
its watch over the cores is on.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from workload import make_model

SETTINGS = {
    "spinning": {"GOMP_SPINCOUNT": "300000"},
    "one thread": {"OMP_NUM_THREADS": "1"},
    "unillm": {},
}
ROWS, TOKENS = 64, 32


def generate(model: str, backend: str) -> None:
    """Print the tokens a second of the median of three calls."""
    from unillm import Generator, SamplingParams

    options = {"backend_options": {"kv_cache_memory_bytes": 2**28}}
    generator = Generator(
        model,
        backend=backend,
        dtype="float32",
        max_num_seqs=ROWS,
        max_model_len=256,
        enforce_eager=backend == "vllm",
        **(options if backend == "vllm" else {}),
    )
    params = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True)
    prompts = [[(7 * row + at) % 500 for at in range(20)] for row in range(ROWS)]
    generator.generate(prompts[:8], params)
    rates = []
    for _ in range(3):
        start = time.perf_counter()
        generator.generate(prompts, params)
        rates.append(ROWS * TOKENS / (time.perf_counter() - start))
    generator.close()
    print(f"rate {statistics.median(rates)}")


def main() -> None:
    """Compare the settings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", default="transformers")
    parser.add_argument("--model", default="10M")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker is not None:
        generate(given.worker, given.backend)
        return
    found: dict[str, dict[str, list[float]]] = {"alone": {}, "beside": {}}
    with tempfile.TemporaryDirectory() as folder:
        model = str(make_model(given.model, Path(folder)))
        arguments = ("--backend", given.backend, "--worker", model)
        for _ in range(given.rounds):
            for company, rates in found.items():
                for name, variables in SETTINGS.items():
                    rate = _run(arguments, variables, busy=company == "beside")
                    rates.setdefault(name, []).append(rate)
                    print(f"{company:7} {name:11} {rate:8.0f} tokens/s", flush=True)
    medians = {
        company: {name: statistics.median(each) for name, each in rates.items()}
        for company, rates in found.items()
    }
    conditions = {"cores": os.cpu_count(), "load": os.getloadavg()[0], **vars(given)}
    print(json.dumps({"conditions": conditions, "tokens_per_s": medians}))


def _run(arguments: tuple[str, ...], variables: dict[str, str], *, busy: bool) -> float:
    other = None
    if busy:
        other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        run = subprocess.run(  # noqa: S603 - this file
            [sys.executable, __file__, *arguments],
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            check=True,
        )
    finally:
        if other is not None:
            other.kill()
            other.wait()
    [line] = [line for line in run.stdout.splitlines() if line.startswith("rate ")]
    return float(line.split()[1])


if __name__ == "__main__":
    main()
