# SPDX-License-Identifier: Apache-2.0

"""Seconds of requests that begin alike, with prefixes taken over and without.

    python benchmarks/prefixes.py --model 10M --requests 64 --prefix 1000 --rounds 3

Two generators of the embedded engine serve the same prompts in turn, in one process:
one as it comes, one with ``enable_prefix_caching=False``. In the workload "shared" all
prompts begin with the same tokens, new in each round; in "apart" no two prompts share
any. Both answers have to be the same tokens. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from workload import MODELS, VOCAB, make_model

WAYS = {"as it comes": None, "without": False}
"""Values of ``enable_prefix_caching``."""


def main() -> None:
    """Measure both workloads both ways, in turn."""
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        path = make_model(options.model, Path(folder))
        generators = {name: _generator(path, options, on) for name, on in WAYS.items()}
        results = {
            workload: _measure(generators, workload, options)
            for workload in ("shared", "apart")
        }
        for generator in generators.values():
            generator.close()
    print(json.dumps({"conditions": _conditions(options), "results": results}))


def _generator(path: Path, options: argparse.Namespace, caching: bool | None) -> Any:
    from unillm import Generator

    return Generator(
        str(path),
        backend="transformers",
        max_model_len=options.prefix + options.rest + options.new,
        max_num_seqs=options.slots,
        enable_prefix_caching=caching,
        backend_options={"device": options.device},
    )


def _measure(
    generators: dict[str, Any], workload: str, options: argparse.Namespace
) -> dict[str, Any]:
    """Return the seconds of each round by way, and the ratios of the pairs."""
    from unillm import SamplingParams

    params = SamplingParams(temperature=0, max_tokens=options.new, ignore_eos=True)
    seconds: dict[str, list[float]] = {name: [] for name in generators}
    cached: dict[str, int] = {}
    for turn in range(options.rounds + 1):
        prompts = _prompts(workload, options, seed=turn)
        answers = []
        # Each way goes first in every other round.
        for name in sorted(generators, reverse=bool(turn % 2)):
            start = time.perf_counter()
            outputs = generators[name].generate(prompts, params, use_tqdm=False)
            taken = time.perf_counter() - start
            answers.append([output.token_ids for output in outputs])
            if turn:  # the round before the first one warms up
                seconds[name].append(taken)
                cached[name] = sum(output.num_cached_tokens for output in outputs)
        equal = sum(one == other for one, other in zip(*answers, strict=True))
    ratios = [
        without / as_it_comes
        for as_it_comes, without in zip(*seconds.values(), strict=True)
    ]
    result = {
        "seconds": {
            name: [round(each, 3) for each in s] for name, s in seconds.items()
        },
        "cached_tokens": cached,
        "times_as_fast": round(statistics.median(ratios), 3),
        "equal_requests_of_the_last_round": equal,
    }
    print(f"{workload:7} {result}", flush=True)
    return result


def _prompts(
    workload: str, options: argparse.Namespace, *, seed: int
) -> list[list[int]]:
    rng = random.Random(seed)

    def ids(count: int) -> list[int]:
        return rng.choices(range(3, VOCAB), k=count)

    stem = ids(options.prefix)
    if workload == "shared":
        return [stem + ids(options.rest) for _ in range(options.requests)]
    return [ids(options.prefix + options.rest) for _ in range(options.requests)]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", choices=MODELS, default="10M")
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--prefix", type=int, default=1000, help="shared tokens")
    parser.add_argument("--rest", type=int, default=16, help="tokens after them")
    parser.add_argument("--new", type=int, default=8, help="new tokens of a request")
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    return parser.parse_args()


def _conditions(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": version("torch"),
        "transformers": version("transformers"),
        **vars(options),
    }


if __name__ == "__main__":
    main()
