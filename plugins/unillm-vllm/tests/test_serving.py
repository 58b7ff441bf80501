# SPDX-License-Identifier: Apache-2.0

"""``unillm serve`` over vLLM, whose engine is then in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import httpx
import psutil
import pytest

PATIENCE_S = 600


@pytest.fixture
def server(tmp_path):
    """A server process, a client of it, and a function that waits for its health."""
    socket, log = tmp_path / "socket", tmp_path / "log"
    options = ("--backend", "vllm", "--enforce-eager", "--max-num-seqs", "4")
    with log.open("w") as output:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "unillm", "serve", "unillm/tiny", *options),
                *("--option", f"kv_cache_memory_bytes={64 << 20}", "--uds", socket),
            ],
            stdout=output,
            stderr=output,
        )
    transport = httpx.HTTPTransport(uds=str(socket))

    def wait_until(holds):
        until = time.monotonic() + PATIENCE_S
        while not holds():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.1)

    with httpx.Client(
        transport=transport, base_url="http://server", timeout=120
    ) as client:
        try:
            wait_until(socket.exists)
            wait_until(lambda: client.get("/health").status_code == 200)
            yield process, client, wait_until
        finally:
            process.kill()  # its engine's processes end with it
            process.wait()


def test_the_server_outlives_the_death_of_its_engine(server):
    process, client, wait_until = server
    body = {"prompt": "Count from 3 to 9:", "temperature": 0}
    answer = client.post("/v1/completions", json=body).json()
    assert answer["choices"][0]["text"] == "3 4 5 6 7 8 9"
    children = psutil.Process(process.pid).children()
    [engine] = [each for each in children if "EngineCore" in "".join(each.cmdline())]

    os.kill(engine.pid, signal.SIGKILL)

    wait_until(lambda: client.get("/health").status_code == 503)
    refused = client.post("/v1/completions", json=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (
        503,
        "engine_dead",
    )
