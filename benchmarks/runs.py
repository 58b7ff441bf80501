# SPDX-License-Identifier: Apache-2.0

"""Runs on CTranslate2: static batches, unillm and one at a time, beside a simulation.

    python benchmarks/runs.py --lengths lognormal --requests 128

A random Llama of 10M parameters in float32, one thread, greedy, every request as long
as its `max_tokens` says. Static batches are plain ``generate_batch`` calls of 8 rows in
the order of arrival, whose rows end one by one. Pairs run A B A B, and medians are
told. The simulation is the same scheduler over an engine that only takes the time that
steps and prompt tokens of this one were measured to take.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from unillm_ctranslate2._engine import CTranslate2Engine
from unillm_ctranslate2._loading import load_engine

from unillm import SamplingParams
from unillm.artifacts.folder import ArtifactFolder
from unillm.config import EngineConfig
from unillm.engines.base import EngineRequest
from unillm.plugins import PluginRegistry
from unillm.scheduling.policy import PromptWork
from unillm.scheduling.runs import BatchTraits, RunScheduler
from unillm.testing.batches import ScriptedBatchEngine, StepCosts

VOCAB = 512
LONGEST = 448
PARAMS = SamplingParams(temperature=0, max_tokens=None, ignore_eos=True)


def lengths_of(kind: str, count: int, numbers: random.Random) -> list[int]:
    """Draw output lengths; their mean is about 90."""
    if kind == "equal":
        return [90] * count
    if kind == "bimodal":
        means = [36 if numbers.random() < 0.8 else 306 for _ in range(count)]
        return [int(mean * numbers.uniform(0.7, 1.3)) for mean in means]
    sigma = 0.9
    mu = math.log(100) - sigma * sigma / 2
    drawn = (int(numbers.lognormvariate(mu, sigma)) for _ in range(count))
    return [max(4, min(LONGEST, length)) for length in drawn]


def make_requests(kind: str, count: int) -> list[EngineRequest]:
    """Draw prompts (lognormal, median 40, at most 256) and lengths."""
    numbers = random.Random(0)
    lengths = lengths_of(kind, count, numbers)
    sizes = [
        max(4, min(256, int(numbers.lognormvariate(math.log(40), 0.8))))
        for _ in lengths
    ]
    return [
        EngineRequest(
            request_id=str(number),
            prompt_token_ids=tuple(numbers.randrange(3, VOCAB) for _ in range(size)),
            params=PARAMS,
            stop_token_ids=frozenset(),
            max_new_tokens=length,
            seed=number,
            arrival=number,
        )
        for number, (size, length) in enumerate(zip(sizes, lengths, strict=True))
    ]


def save_model(path: Path) -> None:
    """Write the random model."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(path)


def load(path: Path, rows: int | None) -> CTranslate2Engine:
    """Load the model as the backend does."""
    build = PluginRegistry().load("ctranslate2").build
    return load_engine(_config(path, rows), build=build)


def _config(path: Path, rows: int | None) -> EngineConfig:
    return EngineConfig.create(
        model=str(path),
        path=path,
        backend="ctranslate2",
        dtype="float32",
        max_num_seqs=rows,
        backend_options={"intra_threads": 1},
    )


Tokens = dict[str, list[int]]


def in_batches(path: Path, requests: list[EngineRequest], rows: int) -> Tokens:
    """Compute static batches by CTranslate2 alone."""
    import ctranslate2

    generator = ctranslate2.Generator(
        str(path), compute_type="float32", intra_threads=1
    )
    tokens: Tokens = {each.request_id: [] for each in requests}
    for first in range(0, len(requests), rows):
        batch = requests[first : first + rows]

        def on_token(result: Any, batch: list[EngineRequest] = batch) -> bool:
            request = batch[result.batch_id]
            tokens[request.request_id].append(result.token_id)
            return len(tokens[request.request_id]) >= request.max_new_tokens

        generator.generate_batch(
            [[str(each) for each in request.prompt_token_ids] for request in batch],
            beam_size=1,
            end_token=[],
            include_prompt_in_result=False,
            max_length=max(request.max_new_tokens for request in batch),
            callback=on_token,
        )
    return tokens


def scheduled(scheduler: RunScheduler, requests: list[EngineRequest]) -> Tokens:
    """Compute all requests in runs."""
    tokens: Tokens = {each.request_id: [] for each in requests}
    for request in requests:
        scheduler.add_request(request)
    while scheduler.has_unfinished():
        for output in scheduler.step():
            tokens[output.request_id] += output.token_ids
    return tokens


def measure_costs(path: Path, requests: list[EngineRequest]) -> StepCosts:
    """Measure what steps and prompt tokens take, on the requests themselves."""
    engine = load(path, 8)
    points: dict[int, list[float]] = {1: [], 8: []}
    prefills = []
    for rows in (8, 1, 8, 1):
        batch = [_row(each) for each in requests[:rows]]
        started = time.perf_counter()
        run = engine.run(batch, max_new_tokens=100)
        told = started
        for step, _ in enumerate(run):
            now = time.perf_counter()
            if step == 0:
                prefills.append((now - told) / (64 * rows))
            else:
                points[rows].append(now - told)
            told = now
        run.close()
    engine.close()
    one, eight = (statistics.median(points[rows]) for rows in (1, 8))
    row_s = max((eight - one) / 7, 0.0)
    return StepCosts(
        step_s=one - row_s, row_s=row_s, prompt_token_s=statistics.median(prefills)
    )


def _row(request: EngineRequest) -> Any:
    import attrs

    from unillm.scheduling.runs import BatchRow

    prompt = (request.prompt_token_ids * 16)[:64]
    changed = attrs.evolve(request, prompt_token_ids=prompt, max_new_tokens=100)
    return BatchRow(request=changed)


def simulate(
    requests: list[EngineRequest], costs: StepCosts, *, rows: int, static: bool
) -> tuple[float, int]:
    """Return the tokens a second of the scheduler at these costs, and its stops."""
    engine = ScriptedBatchEngine(
        lambda *_: 1,
        max_rows=rows,
        costs=costs,
        max_model_len=1024,
        traits=BatchTraits(prompt_work=PromptWork.STEPWISE),
    )
    stops = 0
    if static:
        for first in range(0, len(requests), rows):
            scheduled(
                RunScheduler(engine, clock=engine.clock), requests[first : first + rows]
            )
    else:
        scheduler = RunScheduler(engine, clock=engine.clock)
        scheduled(scheduler, requests)
        stops = scheduler.counters.stops
    return sum(each.max_new_tokens for each in requests) / engine.now, stops


def timed(compute: Callable[[], Tokens]) -> tuple[float, Tokens]:
    """Return tokens a second, and the tokens."""
    started = time.perf_counter()
    tokens = compute()
    seconds = time.perf_counter() - started
    return sum(map(len, tokens.values())) / seconds, tokens


def main() -> None:
    """Measure, and print conditions and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--lengths", choices=["lognormal", "bimodal", "equal"], default="lognormal"
    )
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--alone", type=int, default=12, help="requests one at a time")
    given = parser.parse_args()
    requests = make_requests(given.lengths, given.requests)
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        save_model(model)
        result = compare(model, requests, given)
    conditions = {
        "lengths": given.lengths,
        "requests": given.requests,
        "tokens": sum(each.max_new_tokens for each in requests),
        "pairs": given.pairs,
        "model": "random Llama, 10M, float32",
        "threads": 1,
        "ctranslate2": version("ctranslate2"),
        "python": platform.python_version(),
    }
    print(conditions)
    print(json.dumps({**conditions, **result}))


def compare(
    model: Path, requests: list[EngineRequest], given: argparse.Namespace
) -> dict[str, Any]:
    """Run everything on one model."""
    narrow, wide = load(model, 8), load(model, None)
    spec = PluginRegistry().load("ctranslate2").build_spec(_config(model, 8))
    assert spec is not None
    files = ArtifactFolder().path(spec.key) / "files"
    in_batches(files, requests[:8], 8)  # warm
    rates: dict[str, list[float]] = {"static": [], "unillm": [], "wide": []}
    schedulers = {
        "unillm": RunScheduler(narrow, clock=time.perf_counter),
        "wide": RunScheduler(wide, clock=time.perf_counter),
    }
    expected = None
    for _ in range(given.pairs):
        for name, rate in rates.items():
            found, tokens = timed(
                (lambda: in_batches(files, requests, 8))
                if name == "static"
                else (lambda name=name: scheduled(schedulers[name], requests))  # type: ignore[misc]
            )
            rate.append(found)
            expected = expected or tokens
            assert {key: len(ids) for key, ids in tokens.items()} == {
                key: len(ids) for key, ids in expected.items()
            }
    alone, _ = timed(lambda: in_batches(files, requests[: given.alone], 1))
    costs = measure_costs(model, requests)
    simulated, stops = simulate(requests, costs, rows=8, static=False)
    simulated_static, _ = simulate(requests, costs, rows=8, static=True)
    pairs = [b / a for a, b in zip(rates["static"], rates["unillm"], strict=True)]
    wide_pairs = [b / a for a, b in zip(rates["static"], rates["wide"], strict=True)]
    return {
        "tok_per_s": {
            **{name: round(statistics.median(rate), 1) for name, rate in rates.items()},
            "one_at_a_time": round(alone, 1),
            "simulated": round(simulated, 1),
            "simulated_static": round(simulated_static, 1),
        },
        "unillm_to_static": round(statistics.median(pairs), 3),
        "wide_to_static": round(statistics.median(wide_pairs), 3),
        "simulated_to_static": round(simulated / simulated_static, 3),
        "stops": schedulers["unillm"].counters.stops,
        "simulated_stops": stops,
        "wide_rows": wide.limits.max_num_seqs,
        "costs_ms": {
            "step": round(costs.step_s * 1e3, 3),
            "row": round(costs.row_s * 1e3, 3),
            "prompt_token": round(costs.prompt_token_s * 1e3, 3),
        },
    }


if __name__ == "__main__":
    main()
