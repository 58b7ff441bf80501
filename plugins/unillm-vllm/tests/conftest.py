# SPDX-License-Identifier: Apache-2.0

"""One vLLM engine for the session, because a start takes seconds."""

from __future__ import annotations

import os

# Before vLLM is imported: the fastest and quietest settings on a CPU.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest

from unillm import Generator

TINY = {
    "backend": "vllm",
    "dtype": "float32",
    "max_model_len": 512,
    "enforce_eager": True,
    "max_logprobs": -1,
    "backend_options": {"kv_cache_memory_bytes": 64 << 20},
}


@pytest.fixture(scope="session")
def tiny_options():
    """Options of an engine that starts quickly."""
    return TINY


@pytest.fixture(scope="session")
def generator():
    with Generator("unillm/tiny", max_num_seqs=16, **TINY) as generator:
        yield generator


@pytest.fixture(scope="session")
def reference():
    """The embedded backend on the same model."""
    with Generator(
        "unillm/tiny",
        backend="transformers",
        dtype="float32",
        max_model_len=512,
        max_logprobs=-1,
    ) as generator:
        yield generator
