# SPDX-License-Identifier: Apache-2.0

"""vLLM's engine arguments on another engine.

`LLM` takes every argument of vLLM's ``EngineArgs``. An argument with vLLM's own default
is dropped, one that `Generator` has under the same name is the generator's, and vLLM
gets the rest. On another backend an argument of the rest is left out if it is in
`TUNING`, and refused with the reason if not.

``vllm_defaults.json`` holds the names and defaults of vLLM 0.32, as
``tests/dropin/vllm_defaults.py`` recorded them: programs pass defaults by name, and
run where vLLM is not installed. The judgements are in this module.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import logging
import os
import sys
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from ..config import BACKEND_VARIABLE
from ..errors import ConfigError, UnknownArgumentError
from ..generator import Generator
from ..resolve import is_local
from . import structures

if TYPE_CHECKING:
    from ..backend import Backend

log = logging.getLogger("unillm")

VLLM = "vllm"
"""Name of the backend that takes every argument."""

GENERATOR_OPTIONS = frozenset(inspect.signature(Generator).parameters) - {
    "model",
    "backend",
    "backend_options",
}
"""Arguments that `Generator` takes, most of them under vLLM's name."""

_TUNING = """
    aggregate_engine_logging all2all_backend async_scheduling attention_backend
    attention_config block_size collect_detailed_traces compilation_config
    cpu_offload_gb cpu_offload_params cudagraph_capture_sizes cudagraph_metrics
    custom_histogram_buckets disable_cascade_attn disable_chunked_mm_input
    disable_custom_all_reduce disable_hybrid_kv_cache_manager disable_log_stats
    distributed_executor_backend enable_chunked_prefill enable_flashinfer_autotune
    enable_layerwise_nvtx_tracing enable_logging_iteration_details
    enable_mfu_metrics enable_prefix_caching enable_sleep_mode fully_sharded_loras
    gpu_memory_utilization ir_op_priority jit_monitor_mode jit_monitor_verbose
    kernel_config kv_cache_memory_bytes kv_cache_metrics kv_cache_metrics_sample
    kv_offloading_backend kv_offloading_size linear_backend log_config_file
    log_level logging_config long_prefill_token_threshold
    long_prefill_token_threshold_adaptive max_cpu_loras max_cudagraph_capture_size
    max_num_active_seqs max_num_scheduled_tokens max_parallel_loading_workers
    moe_backend num_gpu_blocks_override offload_backend offload_group_size
    offload_num_in_group offload_params offload_prefetch_step optimization_level
    otlp_traces_endpoint per_request_spec_decode_metrics performance_mode
    prefill_schedule_interval prefix_cache_retention_interval
    prefix_caching_hash_algo profiler_config renderer_num_workers
    safetensors_load_strategy safetensors_prefetch_block_size
    safetensors_prefetch_num_threads scheduler_reserve_full_isl scheduling_policy
    served_model_name show_hidden_metrics_for_version shutdown_timeout
    specialize_active_lora speculative_config stream_interval use_tqdm_on_load watermark
"""
TUNING = frozenset(_TUNING.split())
"""How an engine computes, caches, schedules, loads and logs. A backend without such an
option leaves it out, because no result depends on it."""

_FILES = (
    "unillm finds the files of a model itself. Download the files, with "
    "huggingface_hub.snapshot_download for example, and pass the directory as model"
)
_REFUSED = {
    "prompts are text and token ids, on every backend": """
        allowed_local_media_path allowed_media_domains default_mm_loras
        enable_mm_embeds enable_mm_processor_stats enable_prompt_embeds
        enable_tower_connector_lora interleave_mm_strings io_processor_plugin
        limit_mm_per_prompt media_io_kwargs mm_device_do_normalize
        mm_encoder_attn_backend mm_encoder_attn_dtype mm_encoder_fp8_scale_path
        mm_encoder_fp8_scale_save_margin mm_encoder_fp8_scale_save_path
        mm_encoder_only mm_encoder_tp_mode mm_hasher_algorithm mm_ipc_gpu_memory_gb
        mm_processor_cache_gb mm_processor_cache_type mm_processor_device
        mm_processor_kwargs mm_shm_cache_max_object_size_mb mm_tensor_ipc
        skip_mm_profiling video_pruning_method video_pruning_rate
    """,
    _FILES: "code_revision download_dir hf_config_path tokenizer_revision",
    f"{_FILES}, or log in with `hf auth login`": "hf_token",
    "unillm generates text; it does not embed, classify or score": """
        convert pooler_config runner
    """,
    "outputs hold tokens and their log-probabilities, not the model's inner values": """
        aux_output_config enable_return_routed_experts return_sampling_mask
    """,
    "EOS tokens come from the tokenizer. Pass detokenize=False in SamplingParams to "
    "get token ids alone": "tokens_only",
    "the files of the tokenizer define how it is read": "tokenizer_mode",
    "the queue belongs to unillm: see max_queued_requests": "max_num_queued_reqs",
    "the queue belongs to unillm: see max_queued_tokens": "max_num_queued_tokens",
    "it is a tool for vLLM's own developers": "enable_trace_replay",
}
REFUSED: Mapping[str, str] = {
    name: reason for reason, names in _REFUSED.items() for name in names.split()
}
"""Arguments that no backend honours, with the reason."""

REMOVED: Mapping[str, str] = {
    "device": "vLLM removed it; the backend uses the device that is there",
    "disable_async_output_proc": "vLLM removed it; leave it out",
    "enable_prompt_adapter": "vLLM removed it without a replacement",
    "guided_decoding_backend": "vLLM removed it; structured outputs need no setting",
    "max_context_len_to_capture": "vLLM removed it; leave it out",
    "max_seq_len_to_capture": "vLLM removed it; leave it out",
    "num_lookahead_slots": "vLLM removed it; leave it out",
    "num_scheduler_steps": "vLLM removed it; leave it out",
    "preemption_mode": "vLLM removed it; leave it out",
    "rope_scaling": "vLLM removed it; change config.json, or hf_overrides on vLLM",
    "rope_theta": "vLLM removed it; change config.json, or hf_overrides on vLLM",
    "speculative_model": "vLLM removed it; use speculative_config",
    "swap_space": "vLLM removed it; leave it out",
    "task": "vLLM removed it; unillm only generates text",
    "use_v2_block_manager": "vLLM removed it; leave it out",
}
"""Arguments of older programs that vLLM itself refuses, with the replacement."""

_HARMLESS: Mapping[str, tuple[str, ...]] = {
    "code_revision": ("main",),
    "config_format": ("hf",),
    "convert": ("none",),
    "load_format": ("hf", "safetensors"),
    "reasoning_parser": ("",),
    "reasoning_parser_plugin": ("",),
    "revision": ("main",),
    "runner": ("generate",),
    "tokenizer_mode": ("hf",),
    "tokenizer_revision": ("main",),
}
"""Values that request the behaviour of every backend."""

_HARMLESS_ITEMS: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    structures.ARGUMENT: structures.HARMLESS
}
"""Values of single keys that request it, in arguments that are dicts."""

_OF_DOWNLOADS = frozenset(
    {"code_revision", "download_dir", "hf_token", "revision", "tokenizer_revision"}
)
"""Arguments that change nothing where the model is here already."""

_ELSEWHERE: Mapping[str, tuple[Any, ...]] = {"model_impl": ("transformers",)}
"""Values of vLLM's own options that request what the other backends do."""


@cache
def recorded_defaults() -> dict[str, Any]:
    """Return the arguments of vLLM 0.32 but ``model``, each with its default.

    An empty object stands for a configuration object of vLLM's, an empty list for a
    set.
    """
    record = files(__package__) / "vllm_defaults.json"
    return json.loads(record.read_text("utf-8"))  # type: ignore[no-any-return]


def stated_arguments(
    given: Mapping[str, Any], model: str | os.PathLike[str]
) -> dict[str, Any]:
    """Return the arguments whose value is not vLLM's default.

    Args:
        given: Arguments by name. `None` means "not given", as in ``vllm.LLM``.
        model: The model that they are given with.

    Raises:
        UnknownArgumentError: vLLM removed the argument.
        ConfigError: No backend honours the argument.
    """
    defaults = _defaults()
    unused = _OF_DOWNLOADS if is_local(model) else frozenset[str]()
    stated = {
        name: value
        for name, value in given.items()
        if name not in defaults
        or not (name in unused or _is_default(name, value, defaults[name]))
    }
    for name, value in stated.items():
        if name in REMOVED:
            raise UnknownArgumentError("LLM", name, defaults, reason=REMOVED[name])
        if name in REFUSED:
            raise ConfigError(f"LLM cannot honour {name}={value!r}: {REFUSED[name]}.")
    return stated


def refuse_unknown(names: Iterable[str]) -> None:
    """Refuse names that neither `Generator` nor vLLM has.

    Raises:
        UnknownArgumentError: A name is unknown; the message names the nearest.
    """
    known = _defaults().keys() | GENERATOR_OPTIONS
    for name in names:
        if name not in known:
            raise UnknownArgumentError("LLM", name, known)


def taken_arguments(stated: Mapping[str, Any], backend: Backend) -> dict[str, Any]:
    """Return the arguments that a backend takes; the log names those left out.

    vLLM takes all of them, and itself refuses a name that it does not have.

    Raises:
        UnknownArgumentError: Neither `Generator` nor vLLM has the argument.
        ConfigError: Only vLLM has the argument, and a result may depend on it.
    """
    if backend.name == VLLM:
        return dict(stated)
    refuse_unknown(stated)
    takes = backend.engine_options | (backend.option_names or frozenset())
    stated = {
        name: value
        for name, value in stated.items()
        if value not in _ELSEWHERE.get(name, ())
        and not (
            name == structures.ARGUMENT
            and structures.options_of_json(value) is not None
        )
    }
    for name, value in stated.items():
        if name not in takes and not _is_tuning(name, value):
            raise ConfigError(
                f"LLM cannot honour {name}={value!r} on the backend {backend.name!r}: "
                "it is an option of vLLM alone. Leave it out, or run the program with "
                f"{BACKEND_VARIABLE}={VLLM}."
            )
    if left_out := stated.keys() - takes:
        log.info(
            "left out on the backend %s, which has no such options (no result depends "
            "on them): %s",
            backend.name,
            ", ".join(sorted(left_out)),
        )
    return {name: value for name, value in stated.items() if name in takes}


def _is_tuning(name: str, value: Any) -> bool:
    """Whether no result depends on an argument."""
    if name == "speculative_config" and isinstance(value, Mapping):
        return value.get("method") != "extract_hidden_states" and not any(
            str(key).startswith(("rejection_", "synthetic_")) for key in value
        )
    return name in TUNING


def _is_default(name: str, value: Any, default: Any) -> bool:
    if value is None or value in _HARMLESS.get(name, ()):
        return True
    if name == "limit_mm_per_prompt" and isinstance(value, Mapping):
        return not any(value.values())
    if name in _HARMLESS_ITEMS and isinstance(value, Mapping):
        allowed = _HARMLESS_ITEMS[name]
        return all(each in allowed.get(key, ()) for key, each in value.items())
    if default in ({}, []) and isinstance(value, Collection):
        return len(value) == 0
    try:
        return bool(value == default)
    except (TypeError, ValueError):  # an array, for example
        return False


def _defaults() -> dict[str, Any]:
    """Return vLLM's defaults: of the vLLM that this process has imported, if any.

    A program that passes an object of vLLM's has imported vLLM.
    """
    imported = getattr(sys.modules.get("vllm.engine.arg_utils"), "EngineArgs", None)
    return recorded_defaults() | {
        field.name: field.default
        if field.default_factory is dataclasses.MISSING
        else field.default_factory()
        for field in (dataclasses.fields(imported) if imported else ())
    }
