# SPDX-License-Identifier: Apache-2.0

"""The same rows through ``unillm_ray`` and through ``ray.data.llm``, both on vLLM.

Usage: ``python benchmarks/ray_llm.py [--rows 2000] [--rounds 3]``

Needs an environment with Ray, vLLM, unillm-ray and unillm-vllm. The two take turns, A B
A B; the clock begins when a quarter of the rows is there, long after the start. Both
have one actor, a float32 model, greedy params, and the same `max_num_seqs`.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import statistics
import sys
import time
from typing import Any

SEQS = 64
TOKENS = 60


def with_unillm(dataset: Any, model: str) -> Any:
    """The program of a user of unillm."""
    import unillm_ray

    from unillm import SamplingParams

    return unillm_ray.generate(
        dataset,
        model,
        SamplingParams(temperature=0, max_tokens=TOKENS),
        backend="vllm",
        dtype="float32",
        max_num_seqs=SEQS,
        max_model_len=512,
        enforce_eager=True,
        backend_options={"kv_cache_memory_bytes": 2**26},
    )


def with_ray(dataset: Any, model: str) -> Any:
    """The same program with ``ray.data.llm``."""
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    config = vLLMEngineProcessorConfig(
        model_source=model,
        engine_kwargs={
            "dtype": "float32",
            "max_num_seqs": SEQS,
            "max_model_len": 512,
            "enforce_eager": True,
            "kv_cache_memory_bytes": 2**26,
        },
        placement_group_config={"bundles": [{"CPU": 1}]},  # by default, one GPU
        batch_size=16,
        concurrency=1,
        chat_template_stage=False,
        should_continue_on_error=True,
    )
    processor = build_processor(
        config,
        preprocess=lambda row: {
            "id": row["id"],
            "prompt": row["prompt"],
            "sampling_params": {"temperature": 0, "max_tokens": TOKENS},
        },
        postprocess=lambda row: {
            "id": row["id"],
            "prompt": row["prompt"],
            "generated_text": row["generated_text"],
        },
    )
    return processor(dataset)


PROGRAMS = {"unillm_ray": with_unillm, "ray.data.llm": with_ray}


def lines_of(program: Any) -> int:
    """Return the lines of a program without its head and docstring."""
    return len(inspect.getsource(program).splitlines()) - 3


def rows_of(count: int) -> list[dict[str, Any]]:
    """Return rows whose answers have many lengths."""
    return [
        {"id": i, "prompt": f"Count from {i % 90} to {i % 90 + i % 10}:"}
        for i in range(count)
    ]


def run(program: Any, count: int, model: str) -> tuple[float, dict[int, str]]:
    """Return the rows a second of the last three quarters, and the texts by id."""
    import ray

    dataset = ray.data.from_items(rows_of(count), override_num_blocks=count // 16)
    texts: dict[int, str] = {}
    begin, before = 0.0, 0
    for batch in program(dataset, model).iter_batches(batch_size=16):
        texts.update(zip(batch["id"].tolist(), batch["generated_text"], strict=True))
        if not before and len(texts) >= count / 4:
            begin, before = time.perf_counter(), len(texts)
    return (count - before) / (time.perf_counter() - begin), texts


def main() -> None:
    """Let the two take turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # as other programs run
    import ray

    from unillm.backend import find_model

    model = str(find_model("unillm/tiny"))
    ray.init("local", num_cpus=8, include_dashboard=False, log_to_driver=False)
    rates: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    texts: dict[str, dict[int, str]] = {}
    try:
        for _ in range(given.rounds):
            for name, program in PROGRAMS.items():
                rate, texts[name] = run(program, given.rows, model)
                rates[name].append(rate)
                print(f"{name:13} {rate:8.1f} rows/s", flush=True)
    finally:
        ray.shutdown()
    ours, theirs = (texts[name] for name in PROGRAMS)
    pairs = zip(*rates.values(), strict=True)
    result = {
        "rows": given.rows,
        "cores": os.cpu_count(),
        "python": sys.version[:7],
        "rates": rates,
        "ratio": round(statistics.median(a / b for a, b in pairs), 3),
        "lines": {name: lines_of(program) for name, program in PROGRAMS.items()},
        "equal_texts": sum(ours[i] == theirs[i] for i in ours),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
