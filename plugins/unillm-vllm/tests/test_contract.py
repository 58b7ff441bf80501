# SPDX-License-Identifier: Apache-2.0

"""The contract on real vLLM."""

from __future__ import annotations

import multiprocessing
import os
import signal

from unillm.testing.contract import BackendContract
from unillm.testing.contract.closing import ClosingClauses
from unillm.testing.contract.fixtures import Clauses

SMALL = {"enforce_eager": True, "kv_cache_memory_bytes": 64 << 20}


def lose_the_device(engine):
    """Make every later step raise, as it does on a device that failed."""

    def fail(*_args, **_named):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    core = engine._engine.engine_core.engine_core  # noqa: SLF001
    core.model_executor.execute_model = fail


def kill_the_process(_engine):
    """End vLLM's engine as the kernel does when memory runs out."""
    [process] = [p for p in multiprocessing.active_children() if "Engine" in p.name]
    os.kill(process.pid, signal.SIGKILL)


class TestVllm(BackendContract):
    backend = "vllm"
    options = {"backend_options": SMALL}
    kill_engine = staticmethod(lose_the_device)


class TestVllmInProcesses(Clauses):
    """Only the crash of an engine with processes: each start takes long."""

    backend = "vllm"
    options = {"backend_options": {**SMALL, "multiprocessing": True}}
    kill_engine = staticmethod(kill_the_process)
    test_c7_death = ClosingClauses.test_c7_death
