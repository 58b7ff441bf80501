# SPDX-License-Identifier: Apache-2.0

"""The contract on the fake, at each entry path and in each version family.

The fake follows published sources; ``unillm doctor`` checks the real TensorRT-LLM.
"""

from __future__ import annotations

from types import MappingProxyType

import pytest
from conftest import TINY, install_family
from trtllm_double import engine_dir

from unillm.testing.contract import BackendContract


class _OnTheFake(BackendContract):
    backend = "tensorrt-llm"
    version: str

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _installed(cls):
        """Install the version for the whole class: one engine serves many clauses."""
        with pytest.MonkeyPatch.context() as monkeypatch:
            install_family(cls.version, monkeypatch)
            yield


class TestRunnerOf011(_OnTheFake):
    version = "0.11"


class TestStaticBatchesOf021(_OnTheFake):
    """``ModelRunner`` on an engine without in-flight batching."""

    version = "0.21"
    options = MappingProxyType({"tokenizer": str(TINY)})

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _built(cls, _installed, tmp_path_factory):
        path = tmp_path_factory.mktemp("engine")
        engine_dir.write(path, TINY, inflight=False)
        cls.model = str(path)


class TestEnginesOf021(_OnTheFake):
    version = "0.21"


class TestPyTorchOf12(_OnTheFake):
    version = "1.2"


class TestPyTorchOf14(_OnTheFake):
    version = "1.4"
