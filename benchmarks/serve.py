# SPDX-License-Identifier: Apache-2.0

"""The cost of the server itself: processor time for each streamed token.

Usage: ``python benchmarks/serve.py [--streams 64] [--tokens 400] [--repeats 5]``

An engine that follows a script computes nothing. What is left is the driver, the
detokenizer, the server and its sockets. The same requests are served twice: through
the server to clients in another process, and inside a process to readers in an event
loop. The difference is the server's own cost. Times are those of the processor, of all
threads of the serving process, so other programs on the machine change them little.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import unillm
from unillm.testing import backends, scripted

STEP_S = 0.02


class Engine(scripted.ScriptedEngine):
    """Gives each request a token every `STEP_S` seconds."""

    def __init__(self, config: unillm.EngineConfig) -> None:
        super().__init__(
            lambda request, position: 20 + (request.arrival + position) % 200,
            max_num_seqs=256,
            max_model_len=config.max_model_len or 4096,
            vocab_size=512,
        )

    def step(self) -> list:
        """Wait for the step's time, and forget the calls before it."""
        self.calls.clear()
        time.sleep(STEP_S)
        return super().step()


def serve() -> None:
    """Run a server over the engine."""
    from unillm.cli import main

    arguments = ["serve", "unillm/tiny", "--backend", "scripted", "--port", "0"]
    with backends.plugged(backends.ScriptedBackend(Engine)):
        main([*arguments, "--disable-uvicorn-access-log"])


async def read_stream(host: str, port: int, tokens: int) -> int:
    """Read one stream to its end; return how many chunks it had."""
    reader, writer = await asyncio.open_connection(host, port)
    body = {
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": tokens,
        "ignore_eos": True,
        "stream": True,
    }
    raw = json.dumps(body).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n"
    )
    writer.write(head.encode() + raw)
    answer = await reader.read()
    writer.close()
    assert b"data: [DONE]" in answer, answer[:500]
    return answer.count(b"data: {")


def cpu_s(pid: int) -> float:
    """Return the processor time of a process, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def through_server(streams: int, tokens: int, repeats: int) -> list[float]:
    """Return the processor time of the server for each chunk, in microseconds."""
    process = subprocess.Popen(  # noqa: S603 - this file
        [sys.executable, __file__, "--server"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    try:
        address, ready = None, False
        while not (address and ready):
            line = process.stderr.readline()
            assert line, "the server has ended"
            address = address or re.search(r"running on http://(\S+):(\d+)", line)
            ready = ready or "is ready" in line

        async def load() -> list[int]:
            host, port = address.group(1), int(address.group(2))
            clients = (read_stream(host, port, tokens) for _ in range(streams))
            return await asyncio.gather(*clients)

        asyncio.run(load())  # warm
        costs = []
        for _ in range(repeats):
            before = cpu_s(process.pid)
            chunks = asyncio.run(load())
            costs.append((cpu_s(process.pid) - before) / sum(chunks) * 1e6)
        return costs
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def inside(streams: int, tokens: int, repeats: int) -> list[float]:
    """Return the processor time of the same without a server, in microseconds."""
    params = unillm.SamplingParams(max_tokens=tokens, ignore_eos=True)
    prompt = {"messages": [{"role": "user", "content": "Hello"}]}

    async def load(generator: unillm.Generator) -> list[int]:
        async def read() -> int:
            return len([1 async for _ in generator.submit(prompt, params)])

        return await asyncio.gather(*(read() for _ in range(streams)))

    with (
        backends.plugged(backends.ScriptedBackend(Engine)),
        unillm.Generator("unillm/tiny", backend="scripted") as generator,
    ):
        asyncio.run(load(generator))
        costs = []
        for _ in range(repeats):
            before = time.process_time()
            chunks = asyncio.run(load(generator))
            costs.append((time.process_time() - before) / sum(chunks) * 1e6)
        return costs


def main() -> None:
    """Measure both and print the conditions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    if given.server:
        serve()
        return
    shape = (given.streams, given.tokens, given.repeats)
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, {given}")
    alone, served = inside(*shape), through_server(*shape)
    for name, costs in (("in an event loop", alone), ("through the server", served)):
        low, middle, high = min(costs), statistics.median(costs), max(costs)
        print(f"{name}: {middle:.1f} µs a chunk ({low:.1f} to {high:.1f})")
    own = statistics.median(served) - statistics.median(alone)
    print(f"the server's own: {own:.1f} µs a chunk")


if __name__ == "__main__":
    main()
