# SPDX-License-Identifier: Apache-2.0

"""Cost of a batch job: `run_batch` against `Generator.generate` on the same prompts.

    python benchmarks/jobs.py cost --lines 1000000
    python benchmarks/jobs.py throughput --model unillm/tiny --lines 2000
    python benchmarks/jobs.py vllm --python VLLM_PYTHON --lines 512

- "cost": the engine is scripted and computes nothing. The job's own cost is its
  processor time a line less that of `Generator.generate`, in processes of their own.
  The growth of memory is that from the ten-thousandth line to the end.
- "throughput": a real engine, in pairs A B A B; the ratio is the median of the pairs.
- "vllm": ``unillm batch --backend vllm`` beside vLLM's own ``run-batch``, each a
  process with its own start, on one file. The interpreter *VLLM_PYTHON* has both. The
  ratio is that of the whole runs. A file of one line shows the start of each, which the
  second ratio leaves out.

The script prints the conditions and one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unillm import Generator, SamplingParams, run_batch
from unillm.config import EngineConfig
from unillm.engines.base import Engine
from unillm.engines.slots import PrefillResult, PromptChunk
from unillm.jobs import Answer, LocalWorker
from unillm.scheduling.slots import SlotScheduler
from unillm.testing.backends import ScriptedBackend, plugged
from unillm.testing.scripted import ScriptedSlotEngine

SLOTS = 256
NEW_TOKENS = 4
SETTLED = 10_000
"""Lines after which memory should not grow."""


class Silent(ScriptedSlotEngine):
    """Slots that compute nothing and keep no record of the calls."""

    def __init__(self) -> None:
        super().__init__(lambda _, n: 65 + n, num_slots=SLOTS, vocab_size=512)

    def prefill(self, chunks: Sequence[PromptChunk]) -> PrefillResult:
        """Forget the calls."""
        self.calls.clear()
        return super().prefill(chunks)


def scripted(_: EngineConfig) -> Engine:
    """Return the engine of "cost"."""
    return SlotScheduler(Silent())


def prompt(number: int) -> str:
    """Return the prompt of a line."""
    return f"Count from {number} to {number + 9}:"


def write_lines(path: Path, count: int, form: str, max_tokens: int) -> None:
    """Write an input of *count* lines."""
    with path.open("w", encoding="utf-8") as stream:
        for number in range(count):
            fields = {"max_tokens": max_tokens, "temperature": 0, "ignore_eos": True}
            line: dict[str, Any] = {"prompt": prompt(number), **fields}
            if form == "chat":
                messages = [{"role": "user", "content": prompt(number)}]
                line = {"messages": messages, **fields}
            if form != "rows":
                line = {
                    "custom_id": f"request-{number}",
                    "method": "POST",
                    "url": f"/v1/{'chat/' if form == 'chat' else ''}completions",
                    "body": line,
                }
            stream.write(json.dumps(line) + "\n")


def resident() -> int:
    """Return the resident memory of this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel reports no VmRSS")


class Watched(LocalWorker):
    """Notes the memory after `SETTLED` lines, and its peak."""

    settled = peak = count = 0

    def answers(self, timeout_s: float | None) -> Sequence[Answer]:
        """Count what has ended."""
        found = super().answers(timeout_s)
        before, self.count = self.count, self.count + len(found)
        if before // SETTLED != self.count // SETTLED:
            now = resident()
            self.settled = self.settled or now
            self.peak = max(self.peak, now)
        return found


def job_cost(folder: Path, form: str, any_order: bool) -> dict[str, Any]:
    """Run the job in this process; return its processor time and memory."""
    with (
        plugged(ScriptedBackend(scripted)),
        Generator("unillm/tiny", backend="scripted") as generator,
    ):
        worker = Watched(generator)
        begun, cpu = time.perf_counter(), time.process_time()
        report = run_batch(
            folder / f"{form}.jsonl",
            folder / f"{form}-out.jsonl",
            worker,
            any_order=any_order,
        )
        taken = time.perf_counter() - begun, time.process_time() - cpu
        peak = max(worker.peak, resident())
    assert report.num_failed == 0, report
    return {
        "seconds": taken[0],
        "cpu": taken[1],
        "settled": worker.settled,
        "grown": peak - worker.settled,
    }


def generate_cost(count: int, form: str) -> dict[str, Any]:
    """Generate for the same prompts in one call; return the processor time."""
    params = SamplingParams(max_tokens=NEW_TOKENS, temperature=0, ignore_eos=True)
    prompts: list[Any] = [prompt(number) for number in range(count)]
    with (
        plugged(ScriptedBackend(scripted)),
        Generator(
            "unillm/tiny", backend="scripted", max_queued_requests=count
        ) as generator,
    ):
        begun, cpu = time.perf_counter(), time.process_time()
        if form == "chat":
            chats = [[{"role": "user", "content": each}] for each in prompts]
            generator.chat(chats, params)
        else:
            generator.generate(prompts, params)
        return {
            "seconds": time.perf_counter() - begun,
            "cpu": time.process_time() - cpu,
        }


def alone(function: Any, *arguments: Any) -> Any:
    """Call a function in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def measure_cost(args: argparse.Namespace) -> dict[str, Any]:
    """Measure the job's own cost and its memory."""
    folder = Path(args.folder)
    write_lines(folder / f"{args.form}.jsonl", args.lines, args.form, NEW_TOKENS)
    few = min(args.lines, 100_000)  # more prompts in memory cost more of it
    job = alone(job_cost, folder, args.form, args.any_order)
    memory = alone(generate_cost, few, args.form)
    own = job["cpu"] / args.lines - memory["cpu"] / few
    return {
        "own_us_per_line": round(own * 1e6, 1),
        "job_us_per_line": round(job["cpu"] / args.lines * 1e6, 1),
        "generate_us_per_line": round(memory["cpu"] / few * 1e6, 1),
        "lines_per_s": round(args.lines / job["seconds"]),
        "grown_mb": round(job["grown"] / 1e6, 1),
        "settled_mb": round(job["settled"] / 1e6, 1),
    }


def measure_throughput(args: argparse.Namespace) -> dict[str, Any]:
    """Serve the same prompts from a file and from memory, in turn."""
    folder = Path(args.folder)
    source = folder / "prompts.jsonl"
    write_lines(source, args.lines, args.form, args.new_tokens)
    params = SamplingParams(max_tokens=args.new_tokens, temperature=0, ignore_eos=True)
    prompts = [prompt(number) for number in range(args.lines)]
    chats = [[{"role": "user", "content": each}] for each in prompts]
    options = dict(pair.split("=", 1) for pair in args.option)
    seconds: dict[str, list[float]] = {"batch": [], "generate": []}
    with Generator(args.model, backend=args.backend, **options) as generator:
        for turn in range(-1, args.rounds):
            for side in sorted(seconds, reverse=bool(turn % 2)):
                begun = time.perf_counter()
                if side == "batch":
                    output = folder / "out.jsonl"
                    run_batch(source, output, generator, restart=True)
                elif args.form == "chat":
                    generator.chat(chats, params)
                else:
                    generator.generate(prompts, params)
                if turn >= 0:  # the round before the first warms up
                    seconds[side].append(time.perf_counter() - begun)
    pairs = zip(seconds["generate"], seconds["batch"], strict=True)
    ratios = [generate / batch for generate, batch in pairs]
    return {
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(each, 3) for each in ratios],
        "tokens_per_s": {
            side: round(args.lines * args.new_tokens / statistics.median(each))
            for side, each in seconds.items()
        },
    }


def measure_vllm(args: argparse.Namespace) -> dict[str, Any]:
    """Run one file through vLLM's ``run-batch`` and ``unillm batch``, in turn."""
    from unillm.model.find import find_model

    folder, model = Path(args.folder), str(find_model(args.model))
    engine = [
        *("--max-model-len", "512", "--max-num-seqs", "128", "--dtype", "float32"),
        "--enforce-eager",
    ]
    cache = str(256 * 2**20)
    commands = {
        "vllm": [
            *("-m", "vllm.entrypoints.openai.run_batch", "--model", model, *engine),
            *("--served-model-name", "served", "--kv-cache-memory-bytes", cache),
        ],
        "unillm": [
            *("-m", "unillm", "batch", "--restart", "--model", model, *engine),
            *("--backend", "vllm", "--option", f"kv_cache_memory_bytes={cache}"),
        ],
    }
    seconds: dict[str, list[float]] = {"vllm": [], "unillm": []}
    starts: dict[str, list[float]] = {"vllm": [], "unillm": []}
    for taken, count in ((starts, 1), (seconds, args.lines)):
        source = folder / f"in-{count}.jsonl"
        write_lines(source, count, "chat", args.new_tokens)
        with source.open() as stream:
            lines = [json.loads(line) for line in stream]
        for_vllm = folder / f"in-{count}-vllm.jsonl"
        for line in lines:
            line["body"]["model"] = "served"
        for_vllm.write_text("".join(json.dumps(line) + "\n" for line in lines))
        for turn in range(args.rounds):
            for side in sorted(commands, reverse=bool(turn % 2)):
                output = folder / f"{side}-{count}.jsonl"
                files = (
                    ["-i", str(for_vllm), "-o", str(output)]
                    if side == "vllm"
                    else [str(source), "-o", str(output)]
                )
                begun = time.perf_counter()
                subprocess.run(  # noqa: S603 - the caller names the interpreter
                    [args.python, *commands[side], *files],
                    check=True,
                    stdout=subprocess.DEVNULL,
                    stderr=None if args.verbose else subprocess.DEVNULL,
                    timeout=args.timeout,
                )
                taken[side].append(time.perf_counter() - begun)
    answers = {side: texts(folder / f"{side}-{args.lines}.jsonl") for side in commands}
    middle = {side: statistics.median(each) for side, each in seconds.items()}
    start = {side: statistics.median(each) for side, each in starts.items()}
    return {
        "ratio": round(middle["vllm"] / middle["unillm"], 3),
        "ratio_without_start": round(
            (middle["vllm"] - start["vllm"]) / (middle["unillm"] - start["unillm"]), 3
        ),
        "seconds": {side: round(each, 2) for side, each in middle.items()},
        "start_s": {side: round(each, 2) for side, each in start.items()},
        "equal_texts": sum(
            answers["vllm"][name] == text for name, text in answers["unillm"].items()
        ),
    }


def texts(path: Path) -> dict[str, str]:
    """Return the text of each line of an output, by its id."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {
        row["custom_id"]: row["response"]["body"]["choices"][0]["message"]["content"]
        for row in rows
    }


MEASURES = {
    "cost": measure_cost,
    "throughput": measure_throughput,
    "vllm": measure_vllm,
}


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=list(MEASURES))
    parser.add_argument("--lines", type=int, default=10_000)
    parser.add_argument("--form", choices=("chat", "completions", "rows"))
    parser.add_argument("--any-order", action="store_true")
    parser.add_argument("--model", default="unillm/tiny")
    parser.add_argument("--backend", default="transformers")
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--timeout", type=float, default=1800)
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()
    args.form = args.form or "chat"
    with tempfile.TemporaryDirectory() as folder:
        args.folder = folder
        result = MEASURES[args.what](args)
    conditions = {
        **{k: v for k, v in vars(args).items() if k not in ("folder", "python")},
        "cpus": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
    }
    print(json.dumps(conditions, indent=2), file=sys.stderr)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
