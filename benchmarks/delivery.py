# SPDX-License-Identifier: Apache-2.0

"""Processor time of a token on its way from an engine to the caller.

    python benchmarks/delivery.py
    python benchmarks/delivery.py --beside ../other --rounds 9
    PYTHONPATH=plugins/unillm-vllm/src python benchmarks/delivery.py --vllm

The engine is scripted: in each step every row gets one token of a text in the bundled
model's tokenizer. What the driver's thread spends beside the engine is delivery. It is
counted from the step in which all rows are there to the end of the last request. The
stages:

- "engine": the scripted engine, which makes an output for each token.
- "ids", "text", "stop string": delivery in a list call, with ``detokenize=False``, with
  text, and with text in which a stop string is looked for.
- "streams": delivery while one event loop reads all rows. "streams, process" is the
  processor time of the whole process, with its readers and the engine.
- "vllm": what the plugin makes of vLLM's outputs, which are made by hand here. Needs an
  environment with vLLM.

With ``--beside``, another checkout takes the same stages in a process of its own, in
turn, A B A B; the ratios are medians of the pairs. The script prints the conditions, a
table in microseconds a token, and one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import unillm
from unillm import Generator, SamplingParams
from unillm.config import EngineConfig
from unillm.engines.base import Engine, EngineLimits, EngineOutput, EngineRequest
from unillm.testing.backends import ScriptedBackend, plugged

TEXT = """\
A request goes from its caller to the driver, and from the driver to an engine. In each
step the engine computes one token for every row. A naïve way hands each of them over by
itself: 256 rows, 256 calls; and a “quotation” or an emoji 🎉 takes several tokens.
"""
PROMPT = (1, 2, 3, 4)
IN_LISTS = {
    "ids": {"detokenize": False},
    "text": {},
    "stop string": {"stop": ["\n\nQuestion:"]},
}


class InstantEngine(Engine):
    """Gives every row the next id of a script in each step, and computes nothing.

    Attributes:
        script: The ids, which are repeated.
        clock: Of the processor time of the driver's thread.
        begun_s: When, on that clock, the first step with all rows began.
        own_s: Processor time of the steps since then.
    """

    def __init__(self, config: EngineConfig) -> None:
        self.limits = EngineLimits(
            max_model_len=1_000_000, max_num_seqs=config.max_num_seqs, vocab_size=512
        )
        self.script: list[int] = []
        self.clock = time.pthread_getcpuclockid(threading.get_ident())
        self.begun_s = self.own_s = 0.0
        self._rows: dict[str, int] = {}
        self._step = 0

    def add_request(self, request: EngineRequest) -> None:
        """Add a row; its prompt costs nothing."""
        self._rows[request.request_id] = request.max_new_tokens
        self._step = 0

    def step(self) -> list[EngineOutput]:
        """Return a token for each row, once all rows are there."""
        if self._step == 0:
            if len(self._rows) < self.limits.max_num_seqs:
                time.sleep(0.001)
                return []
            self.begun_s, self.own_s = time.clock_gettime(self.clock), 0.0
        begun_s = time.clock_gettime(self.clock)
        token_id = self.script[self._step % len(self.script)]
        self._step += 1
        outputs = [
            EngineOutput(
                request_id=name,
                token_ids=(token_id,),
                finish_reason="length" if self._step == length else None,
            )
            for name, length in self._rows.items()
        ]
        if outputs[0].finish_reason is not None:  # all rows are equally long
            self._rows.clear()
        self.own_s += time.clock_gettime(self.clock) - begun_s
        return outputs

    def abort(self, request_ids: Iterable[str]) -> None:
        """Drop rows."""
        for name in request_ids:
            self._rows.pop(name, None)

    def has_unfinished(self) -> bool:
        """Return whether there are rows."""
        return bool(self._rows)

    def close(self) -> None:
        """Drop all rows."""
        self._rows.clear()


class Stages:
    """All stages over one generator; each call measures once.

    Args:
        generator: Its engine has the rows.
        engine: The engine of *generator*.
        rows: Requests of a call.
        tokens: New tokens of each.
    """

    def __init__(
        self, generator: Generator, engine: InstantEngine, rows: int, tokens: int
    ) -> None:
        self._generator, self._engine = generator, engine
        self._rows, self._tokens = rows, tokens

    def measure(self) -> dict[str, float]:
        """Return the processor seconds of each stage."""
        found = {}
        for name, fields in IN_LISTS.items():
            outputs, taken = self._timed(
                lambda fields=fields: self._generator.generate(
                    [PROMPT] * self._rows, self._params(**fields), use_tqdm=False
                )
            )
            assert {len(each.token_ids) for each in outputs} == {self._tokens}
            found[name] = taken["delivery"]
        lengths, taken = self._timed(lambda: asyncio.run(self._read_all()))
        assert set(lengths) == {self._tokens}
        found["streams"] = taken["delivery"]
        found["streams, process"] = taken["process"]
        return {"engine": taken["engine"], **found}

    def _params(self, **fields: Any) -> SamplingParams:
        return SamplingParams(
            temperature=0, max_tokens=self._tokens, ignore_eos=True, **fields
        )

    def _timed(self, call: Any) -> tuple[Any, dict[str, float]]:
        engine = self._engine
        gc.collect()
        process_s = time.process_time()
        result = call()
        process_s = time.process_time() - process_s
        while self._generator.stats()["live"]:
            time.sleep(0.001)
        driver_s = time.clock_gettime(engine.clock) - engine.begun_s
        return result, {
            "engine": engine.own_s,
            "delivery": driver_s - engine.own_s,
            "process": process_s,
        }

    async def _read_all(self) -> list[int]:
        params = self._params()
        streams = [self._generator.astream(PROMPT, params) for _ in range(self._rows)]
        return await asyncio.gather(*map(self._length, streams))

    @staticmethod
    async def _length(stream: Any) -> int:
        return sum([len(delta.token_ids) async for delta in stream])


class VllmStage:
    """The plugin's engine over outputs of vLLM that were made by hand."""

    def __init__(self, rows: int, tokens: int) -> None:
        from unillm_vllm._engine import VllmEngine, _Live
        from vllm.v1.engine import EngineCoreOutput, FinishReason

        self._make, self._live_of = EngineCoreOutput, _Live
        self._length = FinishReason.LENGTH
        self._tokens = tokens
        self._requests = [
            EngineRequest(
                request_id=f"{number}-0",
                prompt_token_ids=PROMPT,
                params=SamplingParams(max_tokens=tokens),
                stop_token_ids=frozenset(),
                max_new_tokens=tokens,
                seed=0,
            )
            for number in range(rows)
        ]
        # Without `__init__`, which asks a running vLLM for its limits.
        self._engine: Any = object.__new__(VllmEngine)
        self._engine._alone = SimpleNamespace(lock=threading.Lock())

    def measure(self) -> dict[str, float]:
        """Return the processor seconds of all steps."""
        engine = self._engine
        engine._live = {each.request_id: self._live_of(each) for each in self._requests}
        engine._ids = {each.request_id: each.request_id for each in self._requests}
        steps = [
            SimpleNamespace(
                outputs=[
                    self._make(
                        each.request_id,
                        [7],
                        finish_reason=self._length if not left else None,
                    )
                    for each in self._requests
                ]
            )
            for left in reversed(range(self._tokens))
        ]
        core = SimpleNamespace(get_output=iter(steps).__next__)
        engine._engine = SimpleNamespace(engine_core=core)
        gc.collect()
        begun_s, count = time.thread_time(), 0
        for _ in steps:
            count += len(engine.step())
        assert count == len(self._requests) * self._tokens
        return {"vllm": time.thread_time() - begun_s}


def work(args: argparse.Namespace) -> None:
    """Take all stages once for each line of standard input."""
    made: list[InstantEngine] = []

    def make_engine(config: EngineConfig) -> Engine:
        made.append(InstantEngine(config))
        return made[0]

    with (
        plugged(ScriptedBackend(make_engine, name="instant")),
        Generator(
            "unillm/tiny", backend="instant", max_num_seqs=args.rows
        ) as generator,
    ):
        made[0].script = generator.tokenize(TEXT)
        stages: list[Any] = [Stages(generator, made[0], args.rows, args.tokens)]
        if args.vllm:
            stages.append(VllmStage(args.rows, args.tokens))
        for _ in sys.stdin:
            found: dict[str, float] = {}
            for stage in stages:
                found |= stage.measure()
            print(json.dumps(found), flush=True)


class Worker:
    """A process that takes the stages with one checkout."""

    def __init__(self, checkout: Path) -> None:
        folders = [checkout / "src", checkout / "plugins" / "unillm-vllm" / "src"]
        path = os.pathsep.join([*map(str, folders), os.environ.get("PYTHONPATH", "")])
        self._process = subprocess.Popen(  # noqa: S603 - this very script
            [sys.executable, __file__, *sys.argv[1:], "--worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )

    def measure(self) -> dict[str, float]:
        """Take the stages once."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())  # type: ignore[no-any-return]

    def close(self) -> None:
        """End the process."""
        self._process.communicate(timeout=60)


def main() -> None:
    """Measure, and print the numbers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=100, help="of each row")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--beside", type=Path, help="another checkout")
    parser.add_argument("--vllm", action="store_true", help="with the stage of vLLM")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args)
        return
    conditions = {
        "unillm": unillm.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": round(os.getloadavg()[0], 1),
        "rows": args.rows,
        "tokens": args.tokens,
        "rounds": args.rounds,
    }
    for name, value in conditions.items():
        print(f"{name:<14} {value}")
    checkouts = {"here": Path(__file__).parents[1]}
    if args.beside:
        checkouts["beside"] = args.beside
    workers = {name: Worker(checkout) for name, checkout in checkouts.items()}
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in workers}
    for turn in range(-1, args.rounds):  # the first one warms up
        for name, worker in workers.items():
            found = worker.measure()
            if turn >= 0:
                rounds[name].append(found)
    for worker in workers.values():
        worker.close()
    numbers = summary(rounds, args.rows * args.tokens)
    for stage, found in numbers.items():
        print(f"{stage:<18}", *(f"{name} {n:7.3f}" for name, n in found.items()))
    print(json.dumps({"conditions": conditions, "us_per_token": numbers}))


def summary(
    rounds: dict[str, list[dict[str, float]]], tokens: int
) -> dict[str, dict[str, float]]:
    """Return microseconds a token by stage and checkout, and the ratio of a pair."""
    numbers: dict[str, dict[str, float]] = {}
    for stage in rounds["here"][0]:
        taken = {name: [each[stage] for each in all_] for name, all_ in rounds.items()}
        numbers[stage] = {
            name: round(statistics.median(seconds) / tokens * 1e6, 3)
            for name, seconds in taken.items()
        }
        if "beside" in taken:
            pairs = zip(taken["here"], taken["beside"], strict=True)
            ratio = statistics.median(here / beside for here, beside in pairs)
            numbers[stage]["here/beside"] = round(ratio, 3)
    return numbers


if __name__ == "__main__":
    main()
