# SPDX-License-Identifier: Apache-2.0

"""Servers in a process of their own, for tests."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

import unillm

SOURCE = str(Path(unillm.__file__).parents[1])
SCRIPTED = (str(Path(__file__).with_name("scripted_server.py")),)
PYTHON = os.environ.get("UNILLM_SERVER_PYTHON", sys.executable)
START_TIMEOUT_S = 240.0


class ServerProcess:
    """A server under way.

    Attributes:
        url: Its address, without a slash at the end.
        client: A client of that address.
    """

    def __init__(self, process, log, url):
        self.process = process
        self.url = url
        self.client = httpx.Client(base_url=url, timeout=120.0)
        self._log = log

    def log(self):
        return Path(self._log).read_text()

    def post(self, path, **body):
        return self.client.post(path, json=body)

    def terminate(self, signum=signal.SIGTERM):
        self.process.send_signal(signum)

    def wait(self, timeout=60.0):
        return self.process.wait(timeout)


def start(*arguments, program=("-m", "unillm", "serve"), env=None, ready=True):
    """Start a server on a free port and wait until it listens, or is ready."""
    descriptor, name = tempfile.mkstemp(prefix="server-", suffix=".log")
    path = os.pathsep.join([SOURCE, os.environ.get("PYTHONPATH", "")])
    port = () if "--port" in arguments else ("--port", "0")
    process = subprocess.Popen(
        [PYTHON, *program, *arguments, *port],
        stdout=descriptor,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": path, "NO_COLOR": "1", **(env or {})},
    )
    os.close(descriptor)
    deadline = time.monotonic() + START_TIMEOUT_S
    while not (found := re.search(r"running on (http\S+)", Path(name).read_text())):
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"no server: {Path(name).read_text()}")
        time.sleep(0.05)
    server = ServerProcess(process, name, found.group(1))
    while ready and server.client.get("/health").status_code != 200:
        assert process.poll() is None, server.log()
        assert time.monotonic() < deadline, server.log()
        time.sleep(0.05)
    return server


@contextlib.contextmanager
def running(*arguments, **options):
    """A server for the time of a block."""
    server = start(*arguments, **options)
    try:
        yield server
    finally:
        server.client.close()
        server.terminate(signal.SIGKILL)
        server.wait()
        Path(server._log).unlink()


def scripted(*arguments, **options):
    """A server over the engine of ``scripted_server``, for the time of a block."""
    return running(*arguments, program=SCRIPTED, **options)


def events(response):
    """The events of a stream, as text after ``data: ``."""
    return [
        line.removeprefix("data: ")
        for line in response.iter_lines()
        if line.startswith("data: ")
    ]
