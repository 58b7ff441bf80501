# SPDX-License-Identifier: Apache-2.0

"""The contract on real vLLM."""

from __future__ import annotations

from unillm.testing.contract import BackendContract


class TestVllm(BackendContract):
    backend = "vllm"
    options = {
        "backend_options": {"enforce_eager": True, "kv_cache_memory_bytes": 64 << 20}
    }
