# SPDX-License-Identifier: Apache-2.0

"""``unillm serve --ray`` as a process, on a cluster of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time

import httpx
import pytest

URL = "http://127.0.0.1:8125"
LONG = {"prompt": "Add 1 and 2:", "ignore_eos": True, "max_tokens": 230}


@pytest.fixture
def process(tmp_path):
    log = tmp_path / "log"
    with log.open("w") as stream:
        command = ["serve", "unillm/tiny", "--ray", "local", "--port", "8125"]
        options = ["--backend", "transformers", "--max-num-seqs", "8"]
        process = subprocess.Popen(
            [sys.executable, "-m", "unillm", *command, *options],
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    try:
        while "Ray Serve running on http" not in log.read_text():
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.long
def test_sigterm_lets_requests_finish(process):
    answers = []
    client = threading.Thread(
        target=lambda: answers.append(
            httpx.post(f"{URL}/v1/completions", json=LONG, timeout=120)
        )
    )
    client.start()
    running = ""
    while 'num_requests_running{model_name="unillm/tiny"} 1' not in running:
        running = httpx.get(f"{URL}/metrics", timeout=120).text
        assert not answers, running

    process.send_signal(signal.SIGTERM)

    client.join()
    assert answers[0].status_code == 200
    assert answers[0].json()["usage"]["completion_tokens"] == 230
    assert process.wait(120) == 0
