# SPDX-License-Identifier: Apache-2.0

"""Servers of token ids as a backend of unillm: a hook and a `Backend`.

Imports no HTTP client.
"""

from __future__ import annotations

from importlib.util import find_spec
from types import MappingProxyType
from typing import TYPE_CHECKING

from typing_extensions import override

from unillm.backend import (
    ENGINE_OPTIONS,
    SAMPLING_FIELDS,
    Availability,
    Backend,
    Capabilities,
    Capability,
    MemoryNeeds,
    Support,
    hookimpl,
)

if TYPE_CHECKING:
    from unillm.backend import Engine, EngineConfig

_OF_THE_SERVER = "the server was started with its own"


class RemoteBackend(Backend):
    """Serves models by asking a server that takes and gives token ids.

    The server is known when an engine is created; `Engine.capabilities` then says what
    its kind honours.
    """

    name = "remote"
    description = "a server of token ids: vLLM, SGLang, llama.cpp, trtllm-serve, unillm"
    auto_rank = None  # a server is chosen by name only
    reads_weights = False
    option_names = frozenset({"url", "served_model"})
    option_reasons = MappingProxyType(dict.fromkeys(ENGINE_OPTIONS, _OF_THE_SERVER))
    capabilities = Capabilities.native(*SAMPLING_FIELDS).refined(
        Capabilities(
            fields={
                "extra_args": Capability(
                    support=Support.UNSUPPORTED,
                    reason="no body holds arguments for a server's own processors",
                ),
                "lora": Capability(
                    support=Support.UNSUPPORTED,
                    reason="a server names its adapters as models of their own: choose "
                    'one by backend_options={"served_model": NAME}',
                ),
            }
        )
    )

    @override
    def availability(self) -> Availability:
        if find_spec("httpx") is None:
            return Availability(
                available=False,
                reason="httpx is not installed",
                remedy='pip install "httpx>=0.28"',
            )
        return Availability(available=True)

    @override
    def memory_needs(self, config: EngineConfig) -> MemoryNeeds:
        del config  # the model is in the server's memory
        return MemoryNeeds(
            weight_bytes=0,
            kv_bytes_per_token=0,
            activation_bytes_per_token=0,
            logit_bytes_per_seq=0,
        )

    @override
    def create_engine(self, config: EngineConfig) -> Engine:
        from ._opening import open_engine

        return open_engine(config)


@hookimpl
def unillm_create_backend(name: str) -> Backend | None:
    """Create the remote backend."""
    return RemoteBackend() if name == "remote" else None
