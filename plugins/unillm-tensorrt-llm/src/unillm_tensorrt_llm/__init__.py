# SPDX-License-Identifier: Apache-2.0

"""TensorRT-LLM as a backend of unillm: a hook and a `Backend`. Imports no TensorRT-LLM.

Built from published sources, documentation and issue threads, and tested against a
fake made of them; never run on a GPU. On a machine with one, ``unillm doctor
--contract`` checks the assumptions of the fake.
"""

from __future__ import annotations

from importlib.util import find_spec
from types import MappingProxyType
from typing import TYPE_CHECKING

from typing_extensions import override

from unillm.backend import Availability, Backend, Finding, hookimpl

from ._capabilities import CAPABILITIES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from unillm.backend import BuildSpec, Engine, EngineConfig, Progress


class TensorRTLLMBackend(Backend):
    """Serves checkpoints and engine directories with the installed TensorRT-LLM."""

    name = "tensorrt-llm"
    description = "TensorRT-LLM (CUDA): its LLM API, or engines under our scheduler"
    # Chosen by name only: an engine may take minutes to build, and the plugin was
    # verified against a fake.
    auto_rank = None
    option_names = None  # "door", and every keyword of the LLM class
    engine_options = frozenset(
        {
            "quantization",
            "kv_cache_dtype",
            "tensor_parallel_size",
            "pipeline_parallel_size",
            "gpu_memory_utilization",
            "enable_prefix_caching",
            "speculative_config",
            "enable_lora",
            "max_loras",
            "max_lora_rank",
        }
    )
    capabilities = CAPABILITIES

    @property
    @override
    def waivers(self) -> Mapping[str, str]:
        from ._entry_paths import Installed

        if Installed.look().runs_checkpoints_by_itself:
            return MappingProxyType({})
        return MappingProxyType(
            {
                "R3": "ModelRunnerCpp keeps its requests when its stream is left, so a "
                "run goes on to its end, and requests with other EOS tokens wait"
            }
        )

    @override
    def availability(self) -> Availability:
        if find_spec("tensorrt_llm") is None:
            return Availability(
                available=False,
                reason="TensorRT-LLM is not installed",
                remedy='pip install "tensorrt-llm>=0.11", or run in the image '
                "nvcr.io/nvidia/tensorrt-llm/release",
            )
        return Availability(available=True)

    @override
    def examine(self, config: EngineConfig) -> Iterator[Finding]:
        from ._doctor import examine

        return examine(config)

    @override
    def build_spec(self, config: EngineConfig) -> BuildSpec | None:
        from ._opening import needed_build

        return needed_build(config)

    @override
    def build(self, spec: BuildSpec, target: Path, progress: Progress) -> None:
        from ._building import build

        build(spec, target, progress)

    @override
    def create_engine(self, config: EngineConfig) -> Engine:
        from ._opening import open_engine

        return open_engine(config)


@hookimpl
def unillm_create_backend(name: str) -> Backend | None:
    """Create the TensorRT-LLM backend."""
    return TensorRTLLMBackend() if name == "tensorrt-llm" else None
