# SPDX-License-Identifier: Apache-2.0

"""A long run on a CPU whose steps are compiled beside it, at once, or not at all.

    python benchmarks/background.py [--model 10M] [--seconds 120] [--rounds 1]

Eight requests decode together, again and again. "eager" compiles nothing, "background"
is the default, and "stop" compiles after 500 steps while all streams wait. Each run is
a process of its own with an empty cache of the compiler, or with that of the run before
(--warm); the settings take turns. Tokens a second are those of all requests: before a
process begins to compile, while it does, and afterwards. A gap is the time between two
tokens of one request. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from typing_extensions import override
from workload import MAX_MODEL_LEN, VOCAB, make_model

ROWS, PROMPT, NEW = 8, 20, 200

SETTINGS: dict[str, Any] = {"eager": None, "background": "background", "stop": 500}
"""Values of ``compile_after``."""

PHASES = ("before", "while", "after")


class Marks(logging.Handler):
    """Notes when the engine says that it begins to compile, and that it is done."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    @override
    def emit(self, record: logging.LogRecord) -> None:
        if "compil" in record.msg.lower():
            self.times.append(time.perf_counter())


def work(model: str, setting: str, seconds: float) -> None:
    """Decode for a time, and print what was measured."""
    from unillm import Generator, SamplingParams

    marks = Marks()
    log = logging.getLogger("unillm.transformers")
    log.setLevel(logging.INFO)
    log.addHandler(marks)
    generator = Generator(
        model,
        backend="transformers",
        max_num_seqs=ROWS,
        max_model_len=MAX_MODEL_LEN,
        backend_options={"device": "cpu", "compile_after": SETTINGS[setting]},
    )
    prompts = [[(7 * row + at) % VOCAB for at in range(PROMPT)] for row in range(ROWS)]
    params = SamplingParams(temperature=0, max_tokens=NEW, ignore_eos=True)
    start = last = time.perf_counter()
    gaps: list[tuple[float, float]] = []
    while last < start + seconds:
        handles = [generator.submit(prompt, params) for prompt in prompts]
        for _ in handles[0]:
            now = time.perf_counter()
            gaps.append((now, now - last))
            last = now
        for handle in handles:
            handle.result()
    generator.close()
    times = [start, *marks.times[:2], last]
    middles = [(at - gap / 2, gap) for at, gap in gaps]
    print(
        json.dumps(
            {"setting": setting, "load": round(os.getloadavg()[0], 1)}
            | {
                name: described([gap for at, gap in middles if first < at <= end])
                for name, first, end in zip(PHASES, times, times[1:], strict=False)
            }
        )
    )


def described(gaps: list[float]) -> dict[str, float]:
    """Return the seconds of a phase, the rate of all requests, and gaps in ms."""
    if not gaps:
        return {}
    gaps.sort()
    return {
        "seconds": round(sum(gaps), 1),
        "tokens_per_s": round(ROWS * len(gaps) / sum(gaps)),
        "median_gap_ms": round(1e3 * gaps[len(gaps) // 2], 1),
        "p99_gap_ms": round(1e3 * gaps[len(gaps) * 99 // 100], 1),
        "longest_gap_ms": round(1e3 * gaps[-1], 1),
    }


def main() -> None:
    """Compare the settings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="10M")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--settings", default=",".join(SETTINGS))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--warm", action="store_true")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker is not None:
        work(*given.worker, given.seconds)
        return
    found = []
    with tempfile.TemporaryDirectory() as folder:
        model = str(make_model(given.model, Path(folder)))
        for number in range(given.rounds):
            for setting in given.settings.split(","):
                cache = Path(folder) / ("warm" if given.warm else f"{setting}{number}")
                found.append(_run(model, setting, given.seconds, cache))
                print(found[-1], flush=True)
    conditions = {"cores": os.cpu_count(), **vars(given)}
    print(json.dumps({"conditions": conditions, "runs": found}))


def _run(model: str, setting: str, seconds: float, cache: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--seconds", str(seconds)]
    run = subprocess.run(  # noqa: S603 - this file
        [*command, "--worker", model, setting],
        env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(cache)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return dict(json.loads(run.stdout.splitlines()[-1]))


if __name__ == "__main__":
    main()
