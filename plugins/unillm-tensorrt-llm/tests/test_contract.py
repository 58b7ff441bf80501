# SPDX-License-Identifier: Apache-2.0

"""The contract on the fake, at each entry path and in each version family.

The fake follows published sources; ``unillm doctor --contract`` checks the real
TensorRT-LLM.
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
    """Its LLM API does not keep stop ids."""

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


class TestEnginesOf012(_OnTheFake):
    """Old names, no reasons, no ``ignore_eos``."""

    version = "0.12"


class TestEnginesOf013(_OnTheFake):
    """New names, and nothing else."""

    version = "0.13"


class TestEnginesOf014(_OnTheFake):
    """Reasons of the end."""

    version = "0.14"


class TestEnginesOf015(_OnTheFake):
    """``llmapi``, ``ignore_eos`` and ``detokenize``."""

    version = "0.15"


class TestEnginesOf016(_OnTheFake):
    version = "0.16"


class TestEnginesOf017(_OnTheFake):
    version = "0.17"


class TestEnginesOf018(_OnTheFake):
    version = "0.18"


class TestEnginesOf021(_OnTheFake):
    """``abort`` and ``min_p``."""

    version = "0.21"


class TestEnginesOf12(_OnTheFake):
    """The LLM class of engines beside that of PyTorch."""

    version = "1.2"
    options = MappingProxyType({"backend_options": {"door": "engine"}})


class TestCppSamplerOf10(_OnTheFake):
    version = "1.0"


class TestCppSamplerOf11rc0(_OnTheFake):
    version = "1.1rc0"


class TestCppSamplerOf11(_OnTheFake):
    version = "1.1"


class TestCppSamplerOf12(_OnTheFake):
    version = "1.2"


class TestCppSamplerOf13rc20(_OnTheFake):
    version = "1.3rc20"


class TestCppSamplerOf13rc24(_OnTheFake):
    version = "1.3rc24"


class TestTorchSamplerOf10(_OnTheFake):
    """It takes the best token, whatever is asked."""

    version = "1.0"
    options = MappingProxyType({"backend_options": {"enable_trtllm_sampler": False}})


class TestTorchSamplerOf12(_OnTheFake):
    """It draws, and ignores penalties, bans and seeds."""

    version = "1.2"
    options = MappingProxyType({"backend_options": {"sampler_type": "TorchSampler"}})


class TestTorchSamplerOf14(_OnTheFake):
    version = "1.4"


class TestTorchSamplerOfMain(_OnTheFake):
    """Seeds of the first row; structured outputs, and log-probabilities of prompts."""

    version = "main"
    options = MappingProxyType(
        {
            "enable_prefix_caching": False,
            "max_num_batched_tokens": 1024,
            "backend_options": {"guided_decoding_backend": "llguidance"},
        }
    )
