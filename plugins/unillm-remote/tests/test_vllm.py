# SPDX-License-Identifier: Apache-2.0

"""Real vLLM on a CPU: its own server, and `unillm serve` over it.

``UNILLM_VLLM_PYTHON`` names an interpreter that has vLLM, unillm-vllm and the server;
without it, nothing here runs. This program needs none of them.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import pytest
import server_process

from unillm import Generator, SamplingParams
from unillm.backend import find_model
from unillm.errors import EngineDeadError
from unillm.testing.asking import ANSWERS, COUNT, UNSURE
from unillm.testing.contract import BackendContract

PYTHON = os.environ.get("UNILLM_VLLM_PYTHON")
pytestmark = pytest.mark.skipif(PYTHON is None, reason="UNILLM_VLLM_PYTHON is not set")

START_TIMEOUT_S = 400.0
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
}
FLAGS = (
    *("--served-model-name", "tiny", "--enforce-eager", "--dtype", "float32"),
    *("--max-num-seqs", "8", "--max-model-len", "512", "--max-logprobs", "-1"),
    "--enable-prompt-tokens-details",
    *("--logits-processors", "slow_steps:SlowSteps"),
)
FOUND = {"PYTHONPATH": str(Path(__file__).parent)}
"""vLLM's server needs nothing of unillm, and finds `slow_steps`."""
SCALE_OUT = ("--enable-scale-out",)
SMALL = ("--enforce-eager", "--option", "kv_cache_memory_bytes=67108864")


class VllmServer:
    """vLLM's own server, in a process group of its own."""

    def __init__(self, key, flags):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - `kill` closes it
        module = ("-m", "vllm.entrypoints.openai.api_server")
        model = ("--model", str(find_model("unillm/tiny")), "--port", str(port))
        self._process = subprocess.Popen(
            [PYTHON, *module, *model, *FLAGS, *flags],
            env={**os.environ, **ENVIRONMENT, "VLLM_API_KEY": key, **FOUND},
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        until = time.monotonic() + START_TIMEOUT_S
        while not self._healthy():
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < until, self.log()
            time.sleep(0.5)

    def _healthy(self):
        try:
            return httpx.get(f"{self.url}/health", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def log(self):
        self._log.seek(0)
        return self._log.read().decode(errors="replace")[-5_000:]

    def kill(self):
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._log.close()


@pytest.fixture(scope="class")
def vllm_server(request, key):
    server = VllmServer(key, request.cls.flags)
    yield server
    server.kill()


@pytest.fixture(scope="class")
def unillm_server(key):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server_process, "PYTHON", PYTHON)
        patch.setattr(server_process, "START_TIMEOUT_S", START_TIMEOUT_S)
        options = ("--dtype", "float32", "--max-num-seqs", "8", "--max-logprobs", "-1")
        with server_process.running(
            *("unillm/tiny", "--backend", "vllm", *SMALL, *options),
            env={**ENVIRONMENT, "UNILLM_API_KEY": key},
        ) as server:
            yield server


class TestUnillmServeOnVllm(BackendContract):
    backend = "remote"

    @pytest.fixture(autouse=True)
    def _address(self, unillm_server, monkeypatch):
        monkeypatch.setenv("UNILLM_REMOTE_URL", unillm_server.url)


PROGRAM = """
import json, sys
from unillm import Generator, SamplingParams
prompts, fields = json.loads(sys.stdin.read())
options = {"kv_cache_memory_bytes": 64 << 20}
with Generator("unillm/tiny", backend="vllm", dtype="float32", max_num_seqs=8,
               max_model_len=512, enforce_eager=True, backend_options=options) as g:
    for each in fields:
        outputs = g.generate(prompts, SamplingParams(**each))
        print(json.dumps([output.token_ids for output in outputs]))
"""


class VllmClauses(BackendContract):
    """The contract, and the ids of the same engine in a process of its own."""

    backend = "remote"

    @pytest.fixture(autouse=True)
    def _address(self, vllm_server, monkeypatch):
        monkeypatch.setenv("UNILLM_REMOTE_URL", vllm_server.url)

    def test_ids_equal_those_of_vllm_in_process(self):
        prompts = [*ANSWERS, UNSURE]
        fields = [
            {"temperature": 0, "max_tokens": 24},
            {"temperature": 1.3, "seed": 11, "top_p": 0.9, "max_tokens": 24},
            {"temperature": 0, "repetition_penalty": 1.3, "max_tokens": 24},
            {"temperature": 0, "min_tokens": 9, "max_tokens": 24},
        ]
        run = subprocess.run(
            [PYTHON, "-c", PROGRAM],
            input=json.dumps([prompts, fields]),
            env={**os.environ, **ENVIRONMENT},
            capture_output=True,
            text=True,
            timeout=START_TIMEOUT_S,
            check=False,
        )
        assert run.returncode == 0, run.stderr

        with Generator("unillm/tiny", backend="remote") as there:
            assert there.stats()["engine"]["path"] == self.path
            for each, line in zip(fields, run.stdout.splitlines(), strict=True):
                outputs = there.generate(prompts, SamplingParams(**each))
                assert [output.token_ids for output in outputs] == json.loads(line)


class TestVllmGenerate(VllmClauses):
    flags = SCALE_OUT
    path = "/inference/v1/generate"


class TestVllmCompletions(VllmClauses):
    flags = ()
    path = "/v1/completions"


def test_this_program_has_no_vllm():
    assert "vllm" not in sys.modules
    assert not list(Path(sys.prefix).glob("lib/*/site-packages/vllm"))


def test_the_death_of_vllm_reaches_every_call(key):
    endless = SamplingParams(n=32, max_tokens=400, ignore_eos=True)
    server = VllmServer(key, SCALE_OUT)
    options = {"url": server.url}
    try:
        with Generator("unillm/tiny", backend="remote", backend_options=options) as g:
            handles = [g.submit(prompt, endless) for prompt in ANSWERS]
            next(iter(handles[0]))

            server.kill()

            for handle in handles:
                with pytest.raises(EngineDeadError, match="is gone"):
                    handle.result(timeout=60)
            with pytest.raises(EngineDeadError, match="is gone"):
                g.generate(COUNT, endless)
    finally:
        server.kill()
