# SPDX-License-Identifier: Apache-2.0

"""The cost of an engine in a process of its own, with engines that compute nothing.

Usage::

    taskset -c 0 python benchmarks/process.py pipe        # tokens/s on one core
    python benchmarks/process.py first-token              # µs added, in pairs
    python benchmarks/process.py encoding                 # MessagePack beside JSON
    python benchmarks/process.py replicas --replicas 2    # one engine and several
    python benchmarks/process.py replicas --device-ms 10
    OMP_NUM_THREADS=1 python benchmarks/process.py replicas --steps 50 \
        --backend transformers

``pipe`` steps 64 requests through the socket pair, without a `Generator`.
``first-token`` asks a `Generator` for one token, in this process and in another one, in
turn. ``replicas`` gives each step a busy core for two milliseconds, so a second engine
can help only where there is a core for it and one for the program. With
``--device-ms 10`` each step waits that long instead, as for a device of its own.

The scripted backend is this file: the script puts itself on the path of the processes
that it starts. Prints the conditions to standard error and one line of JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import unillm
from unillm.backend import (
    Availability,
    Backend,
    Capabilities,
    Engine,
    EngineConfig,
    EngineLimits,
    EngineOutput,
    EngineRequest,
    SamplingParams,
    hookimpl,
)

VOCAB_SIZE = 512


class NullEngine(Engine):
    """Gives each request a token in each step, and computes nothing."""

    def __init__(self, config: EngineConfig) -> None:
        self.limits = EngineLimits(
            max_model_len=config.max_model_len or 1_000_000,
            max_num_seqs=config.max_num_seqs or 64,
            vocab_size=VOCAB_SIZE,
        )
        self._busy_s = float(config.backend_options.get("busy_s", 0))
        self._wait_s = float(config.backend_options.get("wait_s", 0))
        self._left: dict[str, int] = {}

    def add_request(self, request: EngineRequest) -> None:
        self._left[request.request_id] = request.max_new_tokens

    def step(self) -> list[EngineOutput]:
        time.sleep(self._wait_s)
        until = time.perf_counter() + self._busy_s
        outputs = []
        for name in list(self._left)[: self.limits.max_num_seqs]:
            self._left[name] -= 1
            ended = not self._left[name]
            if ended:
                del self._left[name]
            outputs.append(
                EngineOutput(
                    request_id=name,
                    token_ids=(65,),
                    finish_reason="length" if ended else None,
                )
            )
        while time.perf_counter() < until:
            pass
        return outputs

    def abort(self, request_ids: Any) -> None:
        for name in request_ids:
            self._left.pop(name, None)

    def has_unfinished(self) -> bool:
        return bool(self._left)

    def close(self) -> None:
        self._left.clear()


class NullBackend(Backend):
    """Creates engines that compute nothing."""

    name = "null"
    description = "computes nothing"
    auto_rank = None
    option_names = frozenset({"busy_s", "wait_s"})
    capabilities = Capabilities.native("temperature", "ignore_eos")

    def availability(self) -> Availability:
        return Availability(available=True)

    def create_engine(self, config: EngineConfig) -> Engine:
        return NullEngine(config)


@hookimpl
def unillm_create_backend(name: str) -> Backend | None:
    """Create the backend."""
    return NullBackend() if name == "null" else None


@contextlib.contextmanager
def on_the_path() -> Iterator[None]:
    """Make this file a plugin of the processes that are started inside the block."""
    with tempfile.TemporaryDirectory() as folder:
        info = Path(folder) / "null-1.0.dist-info"
        info.mkdir()
        metadata = "Metadata-Version: 2.1\nName: null\nVersion: 1.0\n"
        (info / "METADATA").write_text(metadata)
        entry = f"[unillm]\nnull = {Path(__file__).stem}\n"
        (info / "entry_points.txt").write_text(entry)
        here = Path(__file__).parent
        source = Path(unillm.__file__).parents[1]
        parts = [folder, here, source, *os.environ.get("PYTHONPATH", "").split(":")]
        os.environ["PYTHONPATH"] = os.pathsep.join(str(each) for each in parts if each)
        yield


def request(number: int, max_new_tokens: int) -> EngineRequest:
    """Return a request of 16 prompt tokens."""
    return EngineRequest(
        request_id=f"{number}-0",
        prompt_token_ids=tuple(range(1, 17)),
        params=SamplingParams(max_tokens=max_new_tokens, ignore_eos=True),
        stop_token_ids=frozenset(),
        max_new_tokens=max_new_tokens,
        seed=number,
    )


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def tokens_per_s(engine: Engine, rows: int, steps: int) -> float:
    """Step an engine until all requests have ended."""
    for number in range(rows):
        engine.add_request(request(number, steps))
    begun, count = time.perf_counter(), 0
    while engine.has_unfinished():
        for output in engine.step():
            count += len(output.token_ids)
    assert count == rows * steps, (count, rows * steps)
    return count / (time.perf_counter() - begun)


def pipe(args: argparse.Namespace) -> dict[str, Any]:
    """Measure an engine's outputs through the socket pair."""
    from unillm.process.backend import ProcessBackend, describe
    from unillm.resolve import configure

    config = configure("unillm/tiny", "null", max_num_seqs=args.rows)
    backend = ProcessBackend(sys.executable, describe(sys.executable, "null"))
    found, busy_s = [], 0.0
    with backend.create_engine(config) as engine:
        tokens_per_s(engine, args.rows, args.steps)  # warms up
        for _ in range(args.rounds):
            begun = time.process_time() + cpu_seconds(engine.pid)
            found.append(tokens_per_s(engine, args.rows, args.steps))
            busy_s += time.process_time() + cpu_seconds(engine.pid) - begun
    alone = [
        tokens_per_s(NullEngine(config), args.rows, args.steps)
        for _ in range(args.rounds)
    ]
    return {
        "cores": len(os.sched_getaffinity(0)),
        "tokens_per_s": round(statistics.median(found)),
        # Processor time of both processes: other programs disturb it less.
        "tokens_per_cpu_s": round(args.rounds * args.rows * args.steps / busy_s),
        "tokens_per_s_in_one_process": round(statistics.median(alone)),
        "rounds": [round(each) for each in found],
    }


def first_token(args: argparse.Namespace) -> dict[str, Any]:
    """Measure one token of one request, in this process and in another, in turn."""
    from unillm.testing.backends import plugged

    params = SamplingParams(max_tokens=1, ignore_eos=True)
    taken: dict[str, list[float]] = {"here": [], "process": []}
    with plugged(NullBackend()):
        here = unillm.Generator("unillm/tiny", backend="null")
    there = unillm.Generator("unillm/tiny", backend="null", python=sys.executable)
    with here, there:
        for turn in range(-args.rounds // 10, args.rounds):
            for name, generator in (("here", here), ("process", there)):
                begun = time.perf_counter()
                generator.submit([1, 2, 3, 4], params).result()
                if turn >= 0:
                    taken[name].append(time.perf_counter() - begun)
    added = [b - a for a, b in zip(taken["here"], taken["process"], strict=True)]
    quartiles = statistics.quantiles(added)
    return {
        "added_us": round(quartiles[1] * 1e6, 1),
        "added_us_quartiles": [round(each * 1e6, 1) for each in quartiles],
        "us": {
            name: round(statistics.median(all_) * 1e6, 1)
            for name, all_ in taken.items()
        },
    }


def encoding(args: argparse.Namespace) -> dict[str, Any]:
    """Measure a step's message in both encodings, the fastest of many times."""
    import msgspec

    from unillm.backend import TokenLogprobs
    from unillm.process.messages import News
    from unillm.process.values import as_output

    result: dict[str, Any] = {}
    for kind, logprobs in (
        ("plain", None),
        ("5 logprobs", [TokenLogprobs(-0.1234567, 1, [1, 2, 3, 4, 5], [-0.25] * 5)]),
    ):
        outputs = [
            EngineOutput(request_id=f"{n}-0", token_ids=[n], logprobs=logprobs)
            for n in range(args.rows)
        ]
        news = News(1, 1, list(map(as_output, outputs)))
        for name, library in (("msgpack", msgspec.msgpack), ("json", msgspec.json)):
            encoder, decoder = library.Encoder(), library.Decoder(News)
            encoded = encoder.encode(news)
            seconds = math.inf
            for _ in range(args.steps):
                begun = time.perf_counter()
                decoder.decode(encoder.encode(news))
                seconds = min(seconds, time.perf_counter() - begun)
            result[f"{name}, {kind}"] = {
                "bytes_per_row": round(len(encoded) / args.rows, 1),
                "us_per_row": round(seconds / args.rows * 1e6, 3),
            }
    return result


def replicas(args: argparse.Namespace) -> dict[str, Any]:
    """Measure one engine and several, whose steps keep a core or a device busy."""
    step = {"wait_s": args.device_ms / 1000} if args.device_ms else {"busy_s": 0.002}
    result: dict[str, Any] = {"cores": len(os.sched_getaffinity(0))}
    params = SamplingParams(max_tokens=args.steps, ignore_eos=True)
    prompts = [[1 + n % 400, 2, 3] for n in range(args.rows * args.replicas * 4)]
    for count in (1, args.replicas):
        with unillm.Generator(
            "unillm/tiny",
            backend=args.backend,
            python=sys.executable,
            data_parallel_size=count,
            max_num_seqs=args.rows,
            backend_options=step if args.backend == "null" else {},
        ) as generator:
            found = []
            for _ in range(args.rounds):
                begun = time.perf_counter()
                outputs = generator.generate(prompts, params)
                seconds = time.perf_counter() - begun
                found.append(sum(len(each.token_ids) for each in outputs) / seconds)
        result[f"tokens_per_s_{count}"] = round(statistics.median(found))
    ratio = result[f"tokens_per_s_{args.replicas}"] / result["tokens_per_s_1"]
    return {**result, "ratio": round(ratio, 3)}


KINDS = {
    "pipe": pipe,
    "first-token": first_token,
    "encoding": encoding,
    "replicas": replicas,
}
ROUNDS = {"pipe": 5, "first-token": 2000, "encoding": 1, "replicas": 3}


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kind", choices=list(KINDS))
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--steps", type=int, default=500, help="tokens of a request")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--backend", default="null", help="of replicas")
    parser.add_argument("--device-ms", type=float, default=0, help="of a step")
    args = parser.parse_args()
    args.rounds = args.rounds or ROUNDS[args.kind]
    conditions = {
        **vars(args),
        "load_average": round(os.getloadavg()[0], 1),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
    }
    print(json.dumps(conditions), file=sys.stderr)
    with on_the_path():
        print(json.dumps({"conditions": conditions, **KINDS[args.kind](args)}))


if __name__ == "__main__":
    main()
