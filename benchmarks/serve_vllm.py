# SPDX-License-Identifier: Apache-2.0

"""``unillm serve --backend vllm`` beside ``vllm serve``: throughput and TTFT in pairs.

Usage: ``python benchmarks/serve_vllm.py [--model unillm/tiny] [--rounds 7]``, in an
environment with vLLM and its plugin. ``--model 10M`` makes a random Llama.

Both servers are started once and take turns, A B A B; a round is one stream for each of
64 clients at once. The clients run in another process and parse nothing meanwhile. Both
servers send a chunk for each token, with its id. The time to the first token is that of
the first chunk with an id. Processor time is that of a server with its processes.

The last line is JSON: medians of the rounds, and of the ratios of each pair with their
quartiles.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import attrs
from workload import MODELS, make_model

START_S = 600.0
PROMPT = "Count from {} to {}:"


@attrs.frozen
class Round:
    """One round of a server."""

    tokens_per_s: float
    ttft_ms: float
    """Median over the streams."""
    ttft_p95_ms: float
    cpu_us_per_token: float


@attrs.frozen
class Server:
    """A running server."""

    process: subprocess.Popen[bytes]
    port: int

    def cpu_s(self) -> float:
        """Return the processor time of the process and its descendants, in seconds."""
        parents, times = {}, {}
        for entry in Path("/proc").glob("[0-9]*/stat"):
            try:
                text = entry.read_text("ascii", "replace")
            except OSError:
                continue  # it has ended
            fields = text.rpartition(")")[2].split()
            pid = int(entry.parent.name)
            parents[pid] = int(fields[1])
            times[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        family = {self.process.pid}
        while more := {p for p, up in parents.items() if up in family} - family:
            family |= more
        return sum(times[pid] for pid in family)

    def stop(self) -> None:
        """End it with its processes."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def start(command: list[str], log: Path) -> Server:
    """Start a server on a free port and wait until it is ready."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", *command, "--port", str(port)],
            env={"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", **os.environ},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        if is_ready(port):
            return Server(process, port)
        time.sleep(0.5)
    os.killpg(process.pid, signal.SIGKILL)
    raise SystemExit(f"{command} did not start:\n{log.read_text('utf-8')[-3000:]}")


def is_ready(port: int) -> bool:
    """Whether the server takes requests."""
    try:
        address = f"http://127.0.0.1:{port}/health"
        return bool(urllib.request.urlopen(address, timeout=2).status == 200)
    except OSError:
        return False


async def read_stream(port: int, number: int, tokens: int) -> list[tuple[float, bytes]]:
    """Return what one stream brought, each part with the seconds until then."""
    body = {
        "model": "m",
        "prompt": PROMPT.format(number % 9, number),
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "return_token_ids": True,
    }
    raw = json.dumps(body).encode()
    head = (
        "POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n"
    )
    begin = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head.encode() + raw)
    parts = []
    while part := await reader.read(65536):
        parts.append((time.perf_counter() - begin, part))
    writer.close()
    return parts


def first_token_s(parts: list[tuple[float, bytes]], tokens: int) -> float:
    """Return the seconds to the first token of a stream that has all of them."""
    so_far, first, count = b"", None, 0
    for seconds, part in parts:
        *lines, so_far = (so_far + part).split(b"\n")
        for line in lines:
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line[len(b"data: ") :])
            ids = [i for each in chunk["choices"] for i in each.get("token_ids") or ()]
            count += len(ids)
            if ids and first is None:
                first = seconds
    assert first is not None, parts
    assert count == tokens, (count, parts[-1])
    return first


def measure(server: Server, streams: int, tokens: int) -> Round:
    """Load a server once."""

    async def load() -> list[list[tuple[float, bytes]]]:
        each = (read_stream(server.port, i, tokens) for i in range(streams))
        return await asyncio.gather(*each)

    cpu, begin = server.cpu_s(), time.perf_counter()
    read = asyncio.run(load())
    seconds, cpu = time.perf_counter() - begin, server.cpu_s() - cpu
    firsts = sorted(first_token_s(parts, tokens) * 1e3 for parts in read)
    return Round(
        tokens_per_s=streams * tokens / seconds,
        ttft_ms=statistics.median(firsts),
        ttft_p95_ms=firsts[int(0.95 * (streams - 1))],
        cpu_us_per_token=cpu / (streams * tokens) * 1e6,
    )


def summary(rounds: dict[str, list[Round]]) -> dict[str, object]:
    """Return medians of both, and of the ratios of ours to vLLM's in a pair."""
    found: dict[str, object] = {}
    for name in attrs.fields_dict(Round):
        ours, theirs = (
            [getattr(each, name) for each in rounds[side]]
            for side in ("unillm", "vllm")
        )
        ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        found[name] = {
            "unillm": round(statistics.median(ours), 1),
            "vllm": round(statistics.median(theirs), 1),
            "ratio": round(middle, 3),
            "quartiles": [round(low, 3), round(high, 3)],
        }
    return found


def main() -> None:
    """Start both, let them take turns, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="unillm/tiny")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--ours", default="", help="further arguments of unillm serve, in one string"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if given.model in MODELS:
            model = str(make_model(given.model, folder))
        else:
            from unillm.model.find import find_model

            model = str(find_model(given.model))
        both = ["--max-num-seqs", str(given.streams), "--max-model-len", "512"]
        both += ["--dtype", "float32", "--enforce-eager", "--served-model-name", "m"]
        both += ["--disable-uvicorn-access-log"]
        commands = {
            "unillm": [
                *("unillm", "serve", model, "--backend", "vllm"),
                *(*both, *given.ours.split()),
            ],
            "vllm": ["vllm.entrypoints.openai.api_server", "--model", model, *both],
        }
        servers: dict[str, Server] = {}
        try:
            for side, command in commands.items():
                servers[side] = start(command, folder / f"{side}.log")
            rounds: dict[str, list[Round]] = {side: [] for side in servers}
            for number in range(given.rounds + 1):
                for side, server in servers.items():
                    found = measure(server, given.streams, given.tokens)
                    if number:  # the first one warms
                        rounds[side].append(found)
                        print(f"{side}: {found}", flush=True)
        finally:
            for server in servers.values():
                server.stop()
    print(
        f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.1f}"
    )
    print(json.dumps({**vars(given), **summary(rounds)}))


if __name__ == "__main__":
    main()
