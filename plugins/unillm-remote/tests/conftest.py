# SPDX-License-Identifier: Apache-2.0

"""Real servers, each one for all tests that need it."""

from __future__ import annotations

import os

# Before any engine is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
from server_process import running

KEY = "a-key-that-stays-hidden"


@pytest.fixture(scope="session", autouse=True)
def key():
    """The key of the servers, where a user has it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNILLM_REMOTE_API_KEY", KEY)
        yield KEY


@pytest.fixture(scope="session")
def unillm_server():
    """`unillm serve` of the bundled model on the embedded backend."""
    options = ("--dtype", "float32", "--max-num-seqs", "8", "--max-logprobs", "-1")
    with running(
        *("unillm/tiny", "--backend", "transformers", *options),
        env={"UNILLM_API_KEY": KEY},
    ) as server:
        yield server
