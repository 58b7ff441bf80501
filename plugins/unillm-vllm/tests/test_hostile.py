# SPDX-License-Identifier: Apache-2.0

"""Model directories that try to run code, on real vLLM."""

from __future__ import annotations

from unillm.testing.hostile import HostileDirectories


class TestVllm(HostileDirectories):
    backend = "vllm"
    options = {
        "dtype": "float32",
        "max_model_len": 256,
        "max_num_seqs": 2,
        "enforce_eager": True,
        "backend_options": {"kv_cache_memory_bytes": 16 << 20},
    }
