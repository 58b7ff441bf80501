# SPDX-License-Identifier: Apache-2.0

"""One `LLM` for the session, on the backend that ``UNILLM_BACKEND`` names.

The tests are programs for vLLM with the import changed. By default they run on the
embedded backend; ``UNILLM_BACKEND=vllm pytest -W default tests/dropin`` runs the same
tests on vLLM (whose libraries warn).
"""

from __future__ import annotations

import os

import pytest

from unillm import LLM

BACKEND = os.environ.get("UNILLM_BACKEND", "transformers")

OPTIONS = {
    "dtype": "float32",
    "max_model_len": 256,
    "enforce_eager": True,
    "kv_cache_memory_bytes": 64 << 20,
    "tensor_parallel_size": 1,
    "disable_log_stats": False,
    "enable_prefix_caching": True,
}
"""Arguments as a program for vLLM writes them, on every backend."""


@pytest.fixture(scope="session")
def llm():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNILLM_BACKEND", BACKEND)
        # The import of vLLM reads these: fastest for tests on a CPU.
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("TORCHDYNAMO_DISABLE", "1")
        llm = LLM("unillm/tiny", **OPTIONS)
    assert llm.generator.backend == BACKEND
    yield llm
    llm.close()
