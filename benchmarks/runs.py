# SPDX-License-Identifier: Apache-2.0

"""Runs on CTranslate2: static batches, unillm, one at a time, and a simulation.

    python benchmarks/runs.py --lengths lognormal --requests 256 --rows 8

The model is a random Llama of 10M parameters in float32, on one thread. All requests
are greedy and have `max_tokens` new tokens. Static batches are plain ``generate_batch``
calls in the order of arrival, whose rows end one by one. Pairs run A B A B; the script
prints their medians.

The simulation is the same scheduler over an engine that only takes time. The seconds of
a call, a prompt token, a step, a row and a token of context are fitted to steps of
other requests, measured between the pairs. The simulation also computes two
alternatives: a stop at every free row, and an engine that computes prompts of unequal
lengths at once.
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
from collections.abc import Callable, Generator, Hashable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

from typing_extensions import override
from unillm_ctranslate2._engine import CTranslate2Engine
from unillm_ctranslate2._loading import load_engine

from unillm import SamplingParams
from unillm.artifacts.folder import ArtifactFolder
from unillm.config import EngineConfig
from unillm.engines.base import EngineRequest
from unillm.engines.batches import (
    BatchEngine,
    BatchRow,
    BatchTraits,
    PromptWork,
    RunStep,
)
from unillm.plugins import PluginRegistry
from unillm.scheduling import stop_rule
from unillm.scheduling.policy import prefill_of
from unillm.scheduling.runs import RunScheduler
from unillm.testing.batches import ScriptedBatchEngine, StepCosts

VOCAB = 512
LONGEST = 448
PARAMS = SamplingParams(temperature=0, max_tokens=None, ignore_eos=True)


def lengths_of(kind: str, count: int, numbers: random.Random) -> list[int]:
    """Draw output lengths; their mean is about 90."""
    if kind in ("equal", "same"):
        return [90] * count
    if kind == "bimodal":
        means = [36 if numbers.random() < 0.8 else 306 for _ in range(count)]
        return [int(mean * numbers.uniform(0.7, 1.3)) for mean in means]
    sigma = 0.9
    mu = math.log(100) - sigma * sigma / 2
    drawn = (int(numbers.lognormvariate(mu, sigma)) for _ in range(count))
    return [max(4, min(LONGEST, length)) for length in drawn]


def make_requests(kind: str, count: int, *, seed: int = 0) -> list[EngineRequest]:
    """Draw prompts (lognormal, median 40, at most 256) and lengths.

    Prompts of the kind "same" have 40 tokens each, so that no scheduler gains anything.
    """
    numbers = random.Random(seed)
    lengths = lengths_of(kind, count, numbers)
    sizes = [
        40
        if kind == "same"
        else max(4, min(256, int(numbers.lognormvariate(math.log(40), 0.8))))
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


def load(path: Path, rows: int) -> CTranslate2Engine:
    """Load the model as the backend does."""
    build = PluginRegistry().load("ctranslate2").build
    return load_engine(_config(path, rows), build=build)


def _config(path: Path, rows: int) -> EngineConfig:
    return EngineConfig.create(
        model=str(path),
        path=path,
        backend="ctranslate2",
        dtype="float32",
        max_num_seqs=rows,
        backend_options={"intra_threads": 1},
    )


Tokens = dict[str, list[int]]
Clock = Callable[[], float]

CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}
"""Seconds that passed, or that this process used, for a machine with other programs."""


def in_batches(generator: Any, requests: list[EngineRequest], rows: int) -> Tokens:
    """Compute static batches with CTranslate2 alone."""
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


class MeasuredEngine(BatchEngine):
    """Wraps the engine and records the work and the seconds of each step."""

    def __init__(self, engine: CTranslate2Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock
        self._live: set[int] = set()
        self._last_news_at: float | None = None
        self.prefills: list[tuple[int, float]] = []
        """Tokens computed at once, and the seconds since the last run's end."""
        self.steps: list[tuple[int, int, int, float]] = []
        """Number of steps, their rows and context tokens in total, and the seconds."""
        self.limits = self._engine.limits
        self.traits = self._engine.traits

    def begin(self) -> None:
        """Forget the end of the last run."""
        self._last_news_at = None

    @override
    def group(self, request: EngineRequest) -> Hashable:
        return self._engine.group(request)

    @override
    def end_row(self, row: int) -> None:
        self._live.discard(row)
        self._engine.end_row(row)

    @override
    def run(
        self, rows: Sequence[BatchRow], *, max_new_tokens: int
    ) -> Generator[RunStep, None, None]:
        lengths = [len(row.prompt_token_ids) for row in rows]
        last_news_at = self._last_news_at or self._clock()
        run = self._engine.run(rows, max_new_tokens=max_new_tokens)
        self._live = set(range(len(rows)))
        count = 0
        try:
            for step in run:
                now = self._clock()
                new = step.num_steps - (count == 0)
                if count == 0:
                    tokens = prefill_of(lengths, self.traits.prompt_work).tokens
                    self.prefills.append((tokens, now - last_news_at))
                else:
                    live = len(self._live)
                    behind = sum(min(lengths) + count + each for each in range(new))
                    self.steps.append(
                        (new, new * live, behind * live, now - last_news_at)
                    )
                count += step.num_steps
                self._last_news_at = last_news_at = now
                yield step
        finally:
            run.close()

    @override
    def close(self) -> None:
        self._engine.close()

    def costs(self) -> StepCosts:
        """Fit the costs to the records, by least squares."""
        import numpy as np

        calls = np.array([(1, tokens) for tokens, _ in self.prefills], float)
        call_s, prompt_token_s = _fit(calls, [seconds for _, seconds in self.prefills])
        steps = np.array([each[:3] for each in self.steps], float)
        step_s, row_s, context_s = _fit(steps, [each[3] for each in self.steps])
        return StepCosts(
            step_s=step_s,
            row_s=row_s,
            context_token_s=context_s,
            call_s=call_s,
            prompt_token_s=prompt_token_s,
        )


def _fit(work: Any, seconds: list[float]) -> list[float]:
    import numpy as np

    found = np.linalg.lstsq(work, np.array(seconds), rcond=None)[0]
    return [float(each) for each in found]


def simulate(
    requests: list[EngineRequest],
    costs: StepCosts,
    *,
    rows: int,
    work: PromptWork = PromptWork.STEPWISE,
) -> dict[str, float]:
    """Return the scheduler's tokens a second at these costs, and its stops."""
    engine = ScriptedBatchEngine(
        lambda *_: 1,
        max_rows=rows,
        costs=costs,
        max_model_len=1024,
        traits=BatchTraits(prompt_work=work),
    )
    scheduler = RunScheduler(engine, clock=engine.clock)
    scheduled(scheduler, requests)
    tokens = sum(each.max_new_tokens for each in requests)
    return {
        "tok_per_s": round(tokens / engine.now, 1),
        "stops": scheduler.counters.stops,
    }


def simulate_static(
    requests: list[EngineRequest], costs: StepCosts, *, rows: int
) -> dict[str, float]:
    """Return the tokens a second of static batches in the order of arrival."""
    seconds = 0.0
    tokens = 0
    for first in range(0, len(requests), rows):
        batch = requests[first : first + rows]
        count = sum(each.max_new_tokens for each in batch)
        tokens += count
        seconds += count / simulate(batch, costs, rows=rows)["tok_per_s"]
    return {"tok_per_s": round(tokens / seconds, 1)}


def timed(compute: Callable[[], Tokens], clock: Clock) -> tuple[float, Tokens]:
    """Return tokens a second, and the tokens."""
    started = clock()
    tokens = compute()
    seconds = clock() - started
    return sum(map(len, tokens.values())) / seconds, tokens


def main() -> None:
    """Measure, and print conditions and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--lengths",
        choices=["lognormal", "bimodal", "equal", "same"],
        default="lognormal",
    )
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--alone", type=int, default=12, help="requests one at a time")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    given = parser.parse_args()
    requests = make_requests(given.lengths, given.requests)
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        save_model(model)
        result = compare(model, requests, given)
    conditions = {
        "lengths": given.lengths,
        "requests": given.requests,
        "rows": given.rows,
        "tokens": sum(each.max_new_tokens for each in requests),
        "pairs": given.pairs,
        "model": "random Llama, 10M, float32",
        "threads": 1,
        "clock": given.clock,
        "processor": platform.processor() or platform.machine(),
        "ctranslate2": version("ctranslate2"),
        "python": platform.python_version(),
    }
    print(conditions)
    print(json.dumps({**conditions, **result}))


def compare(
    model: Path, requests: list[EngineRequest], given: argparse.Namespace
) -> dict[str, Any]:
    """Measure and simulate one model; return the results."""
    import ctranslate2

    rows, clock = given.rows, CLOCKS[given.clock]
    scheduler = RunScheduler(load(model, rows), clock=clock)
    measured = MeasuredEngine(load(model, rows), clock)
    others = make_requests(given.lengths, min(8 * rows, 256), seed=1)
    spec = PluginRegistry().load("ctranslate2").build_spec(_config(model, rows))
    assert spec is not None
    plain = ctranslate2.Generator(
        str(ArtifactFolder().path(spec.key) / "files"),
        compute_type="float32",
        intra_threads=1,
    )
    in_batches(plain, requests[:rows], rows)  # warm-up
    static, unillm = [], []
    began, used = time.perf_counter(), time.process_time()
    for _ in range(given.pairs):
        rate, expected = timed(lambda: in_batches(plain, requests, rows), clock)
        static.append(rate)
        rate, tokens = timed(lambda: scheduled(scheduler, requests), clock)
        unillm.append(rate)
        assert {key: len(ids) for key, ids in tokens.items()} == {
            key: len(ids) for key, ids in expected.items()
        }
        measured.begin()
        scheduled(RunScheduler(measured, clock=clock), others)
    share = (time.process_time() - used) / (time.perf_counter() - began)
    alone, _ = timed(lambda: in_batches(plain, requests[: given.alone], 1), clock)
    costs = measured.costs()
    simulated = {
        "static": simulate_static(requests, costs, rows=rows),
        "unillm": simulate(requests, costs, rows=rows),
        "prompts_at_once": simulate(requests, costs, rows=rows, work=PromptWork.PACKED),
    }
    with mock.patch.object(stop_rule, "pays_to_stop", return_value=True):
        simulated["stopped_at_every_free_row"] = simulate(requests, costs, rows=rows)
    rate = statistics.median(unillm)
    pairs = [b / a for a, b in zip(static, unillm, strict=True)]
    return {
        "tok_per_s": {
            "static": round(statistics.median(static), 1),
            "unillm": round(rate, 1),
            "one_at_a_time": round(alone, 1),
        },
        "runs": {
            "static": [round(each, 1) for each in static],
            "unillm": [round(each, 1) for each in unillm],
        },
        "cpu_to_wall": round(share, 2),
        "equal_requests": sum(tokens[key] == expected[key] for key in expected),
        "unillm_to_static": round(statistics.median(pairs), 3),
        "unillm_to_simulated": round(rate / simulated["unillm"]["tok_per_s"], 3),
        "static_to_simulated": round(
            statistics.median(static) / simulated["static"]["tok_per_s"], 3
        ),
        "stops": scheduler.counters.stops,
        "simulated": simulated,
        "costs_ms": {
            "call": round(costs.call_s * 1e3, 3),
            "prompt_token": round(costs.prompt_token_s * 1e3, 4),
            "step": round(costs.step_s * 1e3, 3),
            "row": round(costs.row_s * 1e3, 4),
            "context_token": round(costs.context_token_s * 1e3, 6),
        },
    }


if __name__ == "__main__":
    main()
