# SPDX-License-Identifier: Apache-2.0

"""CTranslate2 as a backend of unillm: a hook and a `Backend`. Imports no CTranslate2.

A model is converted once and kept as a prepared engine. CTranslate2 runs static
batches; unillm's run scheduler gives it continuous batching.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from typing_extensions import override

from unillm.backend import (
    Availability,
    Backend,
    Capabilities,
    Capability,
    Sometimes,
    Support,
    hookimpl,
)

if TYPE_CHECKING:
    from unillm.backend import BuildSpec, Engine, EngineConfig, MemoryNeeds, Progress

_NO_HOOK = Capability(
    support=Support.UNSUPPORTED,
    reason="CTranslate2 has no such option, and no way to change its logits",
)


class CTranslate2Backend(Backend):
    """Serves models that CTranslate2 converts, in runs that unillm schedules."""

    name = "ctranslate2"
    description = "CTranslate2 (CPU, CUDA), int8 among others; runs scheduled by unillm"
    # Chosen by name only: a conversion takes time and disk.
    auto_rank = None
    option_names = frozenset({"device", "intra_threads"})
    engine_options = frozenset({"quantization"})
    option_reasons = MappingProxyType(
        {
            "kv_cache_dtype": "CTranslate2 keeps keys and values in the type that it "
            "computes with",
            "gpu_memory_utilization": "CTranslate2 takes memory as runs need it; bound "
            "it with max_num_seqs and max_model_len",
            "enable_prefix_caching": "CTranslate2 has no cache between two runs",
            "tensor_parallel_size": "this plugin runs CTranslate2 on one device",
            "pipeline_parallel_size": "this plugin runs CTranslate2 on one device",
        }
    )
    waivers = MappingProxyType(
        {
            "R3": Sometimes(
                "CTranslate2 computes the tokens of a stopped request again, one a "
                "step, so a stop costs more than a short wait; a waiting request "
                "starts after scheduling.policy.PATIENCE, which the clock measures, so "
                "a paused process may pass"
            )
        }
    )
    capabilities = Capabilities(
        fields={
            **dict.fromkeys(
                (
                    "temperature",
                    "top_k",
                    "top_p",
                    "stop_token_ids",
                    "ignore_eos",
                    "min_tokens",
                    "bad_words",
                ),
                Capability(),
            ),
            "cache_salt": Capability(),  # it caches no prompt
            "logprobs": Capability(
                support=Support.EMULATED,
                reason="read from the logits of a run of one row, so such requests run "
                "one at a time",
            ),
            "logprobs.changed": Capability(
                support=Support.UNSUPPORTED,
                reason="CTranslate2 bans the tokens of min_tokens and bad_words before "
                "it hands out logits",
            ),
            "seed": Capability(
                support=Support.UNSUPPORTED,
                reason="CTranslate2 has one random generator a thread, seeded once a "
                "process",
            ),
            "repetition_penalty": Capability(
                support=Support.UNSUPPORTED,
                reason="CTranslate2's penalty leaves out the prompt",
            ),
            "prompt_logprobs": Capability(
                support=Support.UNSUPPORTED,
                reason="CTranslate2 does not return the logits of a prompt",
            ),
            **dict.fromkeys(
                (
                    "presence_penalty",
                    "frequency_penalty",
                    "min_p",
                    "logit_bias",
                    "allowed_token_ids",
                    "structured_outputs",
                ),
                _NO_HOOK,
            ),
        }
    )

    @override
    def availability(self) -> Availability:
        for module, command in (
            ("ctranslate2", 'pip install "ctranslate2>=4.8,<4.9"'),
            ("torch", 'pip install "torch>=2.11"'),
        ):
            if find_spec(module) is None:
                return Availability(
                    available=False,
                    reason=f"{module} is not installed",
                    remedy=command,
                )
        return Availability(available=True)

    @override
    def refusal(self, config: EngineConfig) -> str | None:
        from ._families import refusal_of

        return refusal_of(config.path, max_model_len=config.max_model_len)

    @override
    def memory_needs(self, config: EngineConfig) -> MemoryNeeds:
        from ._loading import memory_needs

        return memory_needs(config)

    @override
    def default_num_seqs(self, config: EngineConfig, *, device: str) -> int:
        from ._loading import DEFAULT_ROWS

        return DEFAULT_ROWS[device]

    @override
    def build_spec(self, config: EngineConfig) -> BuildSpec:
        from ._loading import build_spec

        return build_spec(config)

    @override
    def build(self, spec: BuildSpec, target: Path, progress: Progress) -> None:
        from ._conversion import convert

        convert(spec, target, progress)

    @override
    def create_engine(self, config: EngineConfig) -> Engine:
        from ._loading import open_engine

        return open_engine(config, build=self.build)


@hookimpl
def unillm_create_backend(name: str) -> Backend | None:
    """Create the CTranslate2 backend."""
    return CTranslate2Backend() if name == "ctranslate2" else None
