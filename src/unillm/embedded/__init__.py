# SPDX-License-Identifier: Apache-2.0

"""The embedded backend: transformers models on torch, in slots that unillm schedules.

It is a plugin like any other: a hook, a `Backend`, and an engine that is imported when
a generator is made.

Private to the core.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from typing_extensions import override

from ..distributions import install
from ..engines.backend import Availability, Backend
from ..engines.base import FEATURES, SAMPLED, Capabilities, Capability, Support
from ..hookspecs import hookimpl
from ..imports import collector_paused
from ..model.checkpoint import read_config
from ..phases import phase

if TYPE_CHECKING:
    from ..config import EngineConfig
    from ..engines.base import Engine


class TransformersBackend(Backend):
    """Decoder-only models of transformers, on CPU and CUDA."""

    name = "transformers"
    description = "transformers models on torch (CPU, CUDA); slots scheduled by unillm"
    auto_rank = 100
    option_names = frozenset({"device", "compile_after", "logprobs_mode"})
    engine_options = frozenset(
        {
            "enable_lora",
            "enable_prefix_caching",
            "max_lora_rank",
            "max_loras",
            "quantization",
        }
    )

    capabilities = SAMPLED.refined(
        Capabilities(
            fields={
                **dict.fromkeys((*FEATURES, "prompt_logprobs"), Capability()),
                "extra_args": Capability(
                    support=Support.UNSUPPORTED,
                    reason="it runs no logits processors of the caller",
                ),
            }
        )
    )

    @override
    def availability(self) -> Availability:
        if find_spec("torch") is None:
            return Availability(
                available=False,
                reason="torch is not installed",
                remedy=install("transformers"),
            )
        return Availability(available=True)

    @override
    def refusal(self, config: EngineConfig) -> str | None:
        from .families import refusal_of

        return refusal_of(read_config(config.path))

    @override
    def remark(self, config: EngineConfig) -> str | None:
        from .families import remark_of

        return remark_of(read_config(config.path))

    @override
    def default_num_seqs(self, config: EngineConfig, *, device: str) -> int:
        from .families import remark_of
        from .memory import DEFAULT_SLOTS

        one_slot = remark_of(read_config(config.path)) is not None
        return 1 if one_slot else DEFAULT_SLOTS[device]

    @override
    def create_engine(self, config: EngineConfig) -> Engine:
        from ..engines.slots import DEFAULT_MAX_NUM_BATCHED_TOKENS
        from ..scheduling.slots import SlotScheduler

        with phase("importing torch and transformers"), collector_paused():
            from .loading import load_engine

        budget = config.max_num_batched_tokens or DEFAULT_MAX_NUM_BATCHED_TOKENS
        engine = load_engine(
            config.path,
            dtype=config.dtype,
            device=config.backend_options.get("device", "auto"),
            max_model_len=config.max_model_len,
            max_num_seqs=config.max_num_seqs,
            max_num_batched_tokens=budget,
            quantization=config.quantization,
            trust_remote_code=config.trust_remote_code,
            enforce_eager=config.enforce_eager,
            compile_after=config.backend_options.get("compile_after", "background"),
            enable_lora=config.enable_lora,
            max_loras=config.max_loras,
            enable_prefix_caching=config.enable_prefix_caching,
            logprobs_mode=config.backend_options.get("logprobs_mode", "raw_logprobs"),
        )
        return SlotScheduler(engine, max_num_batched_tokens=budget)


@hookimpl(trylast=True)
def unillm_create_backend(name: str) -> Backend | None:
    """Create the embedded backend."""
    return TransformersBackend() if name == "transformers" else None
