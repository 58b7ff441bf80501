# SPDX-License-Identifier: Apache-2.0

"""Configuration objects of the current version (§2.1, §2.2, §7)."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any, Literal

import pydantic

from . import names
from .profiles import current

log = logging.getLogger("tensorrt_llm")


class QuantAlgo:
    FP8 = "FP8"
    W8A16 = "W8A16"
    W4A16 = "W4A16"
    W4A16_AWQ = "W4A16_AWQ"
    W4A16_GPTQ = "W4A16_GPTQ"
    W8A8_SQ_PER_CHANNEL = "W8A8_SQ_PER_CHANNEL"


class _Strict(pydantic.BaseModel):
    """An unknown field or a wrong value is a ``pydantic.ValidationError`` at once."""

    model_config = pydantic.ConfigDict(extra="forbid", arbitrary_types_allowed=True)


def make(name: str, fields: dict[str, Any], base=_Strict, **options):
    """Make a strict class of fields and defaults."""
    typed = {field: (Any, default) for field, default in fields.items()}
    return pydantic.create_model(name, __base__=base, **typed, **options)


# -------------------------------------------------------------------------- engines


def make_build_config():
    """Make ``BuildConfig``: small defaults up to 0.14, and none of 0.15 on (§6)."""
    return names.make_dataclass("BuildConfig", kw_only=True)


def make_quant_config():
    return names.make_dataclass("QuantConfig", kw_only=True)


# --------------------------------------------------------------------------- KV cache

_KV_BINDING = {
    "enable_block_reuse",
    "max_tokens",
    "max_attention_window",
    "sink_token_length",
    "free_gpu_memory_fraction",
    "host_cache_size",
    "onboard_blocks",
}
_KV_FIELDS = {
    "enable_block_reuse": True,
    "max_tokens": None,
    "max_attention_window": None,
    "free_gpu_memory_fraction": 0.9,
    "host_cache_size": None,
    "enable_partial_reuse": True,
    "copy_on_partial_reuse": True,
    "max_gpu_total_bytes": 0,
    "dtype": "auto",
    "tokens_per_block": 32,
    "event_buffer_max_size": 0,
    "use_kv_cache_manager_v2": False,
}
_KV_UNTIL_2026 = {"sink_token_length": None, "onboard_blocks": True}

KV_DTYPES = {
    *("auto", "fp8", "nvfp4", "float32", "float16", "bfloat16", "half", "float"),
    *("float8_e4m3fn", "float8_e5m2", "int8", "uint8"),
}
"""``auto``, ``fp8``, ``nvfp4`` and torch's dtypes; not vLLM's ``fp8_e5m2`` (§2.2)."""


class _KvCacheBinding:
    """A binding of a C++ class: wrong names are a TypeError, as pybind11 raises it.

    Inferred: the classes of versions up to 0.17 come from ``bindings.executor``.
    """

    def __init__(self, **fields):
        if not fields.keys() <= _KV_BINDING:
            raise TypeError("__init__(): incompatible constructor arguments.")
        self.__dict__.update(fields)

    def model_dump(self, *, exclude_unset):
        assert exclude_unset
        return dict(self.__dict__)


class _KvCache(_Strict):
    @pydantic.field_validator("dtype", check_fields=False)
    @classmethod
    def _known(cls, dtype):
        if current().kv_dtypes == "checked" and dtype not in KV_DTYPES:
            raise ValueError(
                "kv_cache_config.dtype must be one of auto, fp8, nvfp4 or a torch "
                f"dtype, got {dtype!r}"
            )
        return dtype


def make_kv_cache_config():
    """Make ``KvCacheConfig`` (§2.2)."""
    profile = current()
    if not profile.pydantic:
        return _KvCacheBinding
    old = _KV_UNTIL_2026 if profile.kv_dtypes == "any" else {}
    return make("KvCacheConfig", _KV_FIELDS | old, base=_KvCache)


# ------------------------------------------------------------------------ speculation


class _Decoding(_Strict):
    @pydantic.model_validator(mode="after")
    def _needs_its_draft(self):
        """Raise where the object is made, not where ``LLM`` is (§7)."""
        kind = type(self).__name__
        model = getattr(self, current().draft_field, None)
        if kind.startswith("Eagle") and model is None:
            raise ValueError("Draft model must be provided for EAGLE")
        if kind.startswith("DraftTarget") and model is None:
            raise ValueError("speculative_model must be specified for DraftTarget")
        return self


def make_decoding_configs() -> dict[str, type]:
    """Make the ``*DecodingConfig`` classes by name (§7)."""
    return {name: _decoding_config(name) for name in current().decoding_configs}


def _decoding_config(name: str):
    profile = current()
    fields: dict[str, Any] = {"max_draft_len": None}
    if name == "MTPDecodingConfig":
        # max_draft_len is a later name of it, and both stand in the base class.
        fields["num_nextn_predict_layers"] = 1
    if name == "NGramDecodingConfig":
        fields |= {"max_matching_ngram_size": None, "is_keep_all": True}
    if profile.advanced_sampling is not None:
        status = "prototype" if profile.advanced_sampling == "needed" else "deprecated"
        fields["allow_advanced_sampling"] = pydantic.Field(
            default=False, json_schema_extra={"status": status}
        )
    draft: Any = None
    if profile.draft_field == "speculative_model":
        draft = pydantic.Field(
            default=None,
            validation_alias=pydantic.AliasChoices(
                "speculative_model", "speculative_model_dir"
            ),
        )
    return make(name, {**fields, profile.draft_field: draft}, base=_Decoding)


ONE_MODEL = ("MTPDecodingConfig", "Eagle3DecodingConfig", "PARDDecodingConfig")
"""Methods whose draft runs inside the model; ``DraftTarget`` is one from mid-2026."""


def speculates_greedily(config) -> bool:
    """Whether a speculation on PyTorch ignores temperature (§7).

    Two-model methods sample. EAGLE v1/v2 is turned into EAGLE 3 with a warning.
    """
    if config is None:
        return False
    name = type(config).__name__
    if name == "EagleDecodingConfig":
        log.warning("EAGLE checkpoints v1 and v2 do not fit; they run as EAGLE 3")
        name = "Eagle3DecodingConfig"
    if name not in ONE_MODEL:
        return False
    kind = current().advanced_sampling
    if kind == "deprecated":
        return False
    return kind is None or not config.allow_advanced_sampling


# ------------------------------------------------------------------ arguments of LLM

_COMMON = {
    "pipeline_parallel_size": 1,
    "context_parallel_size": 1,
    "gpus_per_node": None,
    "moe_tensor_parallel_size": None,
    "moe_expert_parallel_size": None,
    "enable_attention_dp": False,
    "load_format": "auto",
    "enable_lora": False,
    "lora_config": None,
    "kv_cache_config": None,
    "enable_chunked_prefill": False,
    "guided_decoding_backend": None,
    "batched_logits_processor": None,
    "peft_cache_config": None,
    "scheduler_config": None,
    "speculative_config": None,
    "max_batch_size": 2048,
    "max_input_len": 1024,
    "max_seq_len": None,
    "max_beam_width": 1,
    "max_num_tokens": 8192,
    "gather_generation_logits": False,
    "num_postprocess_workers": 0,
    "return_perf_metrics": False,
    "backend": None,
}
_PYTORCH = {
    "cuda_graph_config": "default",
    "disable_overlap_scheduler": False,
    "attn_backend": "TRTLLM",
    "moe_config": None,
    "torch_compile_config": None,
    "stream_interval": 1,
    "enable_autotuner": True,
    "enable_iter_perf_stats": False,
}
TENSORRT_ONLY = {
    "build_config": None,
    "quant_config": None,
    "calib_config": None,
    "enable_build_cache": False,
    "fast_build": False,
    "workspace": None,
    "embedding_parallel_mode": "SHARDING_ALONG_VOCAB",
    "extended_runtime_perf_knob_config": None,
    "batching_type": None,
    "normalize_log_probs": False,
}


def known_arguments(backend: str) -> dict[str, Any]:
    """Return the keywords of ``LLM`` and their defaults, for a backend (§2.1)."""
    profile = current()
    if profile.facts is not None:
        return _seen_arguments()
    if backend == "pytorch":
        return _COMMON | _PYTORCH | dict(profile.sampler_options)
    unset = dict.fromkeys(profile.run_time_numbers)
    return _COMMON | TENSORRT_ONLY | unset | dict(profile.run_time_defaults)


def _seen_arguments() -> dict[str, Any]:
    """Return the fields of ``LlmArgs``; up to 0.14 ``from_kwargs`` takes more.

    It makes a ``parallel_config`` of the number of GPUs.
    """
    listed = names.fields("LlmArgs")
    if listed is None:  # 0.11: as 0.12, whose first argument its notes describe
        listed = names.facts()["0.12"]["classes"]["LlmArgs"]["fields"]
    known = {each.partition("=")[0]: None for each in listed}
    if "parallel_config" in known:
        known |= {"pipeline_parallel_size": 1}
    return known


def make_llm_args() -> dict[str, type]:
    """Make the classes of arguments, whose fields differ by version (§11).

    ``LlmArgs`` is a dataclass up to 0.17; from 1.0 on each backend has a class.
    """
    profile = current()
    if profile.facts is not None:
        seen = names.make_dataclass("LlmArgs")
        return {} if seen is None else {"LlmArgs": seen}
    engines = make("TrtLlmArgs", {"model": None, **known_arguments("tensorrt")})
    if profile.llm == "tensorrt":
        return {"LlmArgs": engines}
    of_pytorch = {"model": None, **known_arguments("pytorch")}
    guided = {"guided_decoding_backend": (GUIDED_BACKENDS, None)}
    base = pydantic.create_model("TorchLlmArgs", __base__=_Strict, **guided)
    del of_pytorch["guided_decoding_backend"]
    made = {"TorchLlmArgs": make("TorchLlmArgs", of_pytorch, base=base)}
    return made | ({"TrtLlmArgs": engines} if profile.runtime else {})


GUIDED_BACKENDS = Literal["xgrammar", "llguidance"] | None
"""Backends of guided decoding on PyTorch; engines have xgrammar alone (§4.6)."""


# ------------------------------------------------------------------------------- LoRA


@dataclasses.dataclass(kw_only=True)
class LoraConfig:
    """Adapters of an ``LLM`` (§8)."""

    lora_dir: list = dataclasses.field(default_factory=list)
    lora_ckpt_source: str = "hf"
    max_lora_rank: int = 64
    lora_target_modules: list = dataclasses.field(default_factory=list)
    trtllm_modules_to_hf_modules: dict = dataclasses.field(default_factory=dict)
    max_loras: int | None = None
    max_cpu_loras: int | None = None
