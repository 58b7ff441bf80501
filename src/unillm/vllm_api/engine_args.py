# SPDX-License-Identifier: Apache-2.0

"""vLLM's engine arguments by name: what each one becomes on another engine.

A program written for vLLM passes these to `LLM`. Whatever backend runs it, an argument
is honoured, or it changes no result and is left out, or it is refused with the reason.
Names and defaults are those of ``EngineArgs`` in vLLM 0.32; where a default is an
object of vLLM's, `OBJECT` stands for it.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from ..errors import ConfigError, UnknownArgumentError

OBJECT: Any = object()
"""A default that is an object of vLLM's own."""

SHARED: Mapping[str, Any] = {
    "dtype": "auto",
    "enable_lora": False,
    "enable_prefix_caching": None,
    "enforce_eager": False,
    "gpu_memory_utilization": 0.92,
    "kv_cache_dtype": "auto",
    "max_logprobs": 20,
    "max_lora_rank": 16,
    "max_loras": 1,
    "max_model_len": None,
    "max_num_batched_tokens": None,
    "max_num_seqs": None,
    "pipeline_parallel_size": 1,
    "quantization": None,
    "seed": 0,
    "speculative_config": None,
    "tensor_parallel_size": 1,
    "tokenizer": None,
    "trust_remote_code": False,
}
"""What `Generator` takes under the same name, with vLLM's default."""

TEXT: Mapping[str, Any] = {
    "chat_template": None,
    "generation_config": "auto",
    "override_generation_config": {},
}
"""What concerns text and defaults, which `LLM` sees to on every backend."""

EFFORT: Mapping[str, Any] = {
    "aggregate_engine_logging": False,
    "all2all_backend": "allgather_reducescatter",
    "async_scheduling": None,
    "attention_backend": None,
    "attention_config": OBJECT,
    "block_size": None,
    "collect_detailed_traces": None,
    "compilation_config": OBJECT,
    "cpu_offload_gb": 0,
    "cpu_offload_params": set(),
    "cudagraph_capture_sizes": None,
    "cudagraph_metrics": False,
    "custom_histogram_buckets": None,
    "disable_cascade_attn": None,
    "disable_chunked_mm_input": False,
    "disable_custom_all_reduce": False,
    "disable_hybrid_kv_cache_manager": None,
    "disable_log_stats": False,
    "distributed_executor_backend": None,
    "enable_chunked_prefill": None,
    "enable_flashinfer_autotune": None,
    "enable_layerwise_nvtx_tracing": False,
    "enable_logging_iteration_details": False,
    "enable_mfu_metrics": False,
    "enable_sleep_mode": False,
    "fully_sharded_loras": False,
    "ir_op_priority": OBJECT,
    "jit_monitor_mode": "warn",
    "jit_monitor_verbose": False,
    "kernel_config": OBJECT,
    "kv_cache_memory_bytes": None,
    "kv_cache_metrics": False,
    "kv_cache_metrics_sample": 0.01,
    "kv_offloading_backend": "native",
    "kv_offloading_size": None,
    "linear_backend": "auto",
    "log_config_file": None,
    "log_level": None,
    "logging_config": None,
    "long_prefill_token_threshold": 0,
    "long_prefill_token_threshold_adaptive": False,
    "max_cpu_loras": None,
    "max_cudagraph_capture_size": None,
    "max_num_active_seqs": None,
    "max_num_scheduled_tokens": None,
    "max_parallel_loading_workers": None,
    "moe_backend": "auto",
    "num_gpu_blocks_override": None,
    "offload_backend": "auto",
    "offload_group_size": 0,
    "offload_num_in_group": 1,
    "offload_params": set(),
    "offload_prefetch_step": 1,
    "optimization_level": 2,
    "otlp_traces_endpoint": None,
    "per_request_spec_decode_metrics": "none",
    "performance_mode": "balanced",
    "prefill_schedule_interval": 1,
    "prefix_cache_retention_interval": 0,
    "prefix_caching_hash_algo": "sha256",
    "profiler_config": OBJECT,
    "renderer_num_workers": 1,
    "safetensors_load_strategy": None,
    "safetensors_prefetch_block_size": 16777216,
    "safetensors_prefetch_num_threads": 8,
    "scheduler_reserve_full_isl": True,
    "scheduling_policy": "fcfs",
    "served_model_name": None,
    "show_hidden_metrics_for_version": None,
    "shutdown_timeout": 0,
    "specialize_active_lora": False,
    "stream_interval": 1,
    "use_tqdm_on_load": True,
    "watermark": 0.0,
}
"""How vLLM computes, keeps memory, schedules, loads and logs. No result depends on it,
so another backend leaves it out."""

OWN: Mapping[str, Any] = {
    "_api_process_count": 1,
    "_api_process_rank": 0,
    "additional_config": {},
    "allow_deprecated_quantization": False,
    "config_format": "auto",
    "cp_kv_cache_interleave_size": None,
    "cpu_distributed_timeout_seconds": None,
    "data_parallel_address": None,
    "data_parallel_backend": "mp",
    "data_parallel_external_lb": False,
    "data_parallel_hybrid_lb": False,
    "data_parallel_multi_port_external_lb": False,
    "data_parallel_rank": None,
    "data_parallel_rpc_port": None,
    "data_parallel_size": 1,
    "data_parallel_size_local": None,
    "data_parallel_start_rank": None,
    "dbo_decode_token_threshold": 32,
    "dbo_prefill_token_threshold": 512,
    "dcp_comm_backend": None,
    "dcp_kv_cache_interleave_size": 1,
    "dcp_q_replicate": None,
    "decode_context_parallel_size": 1,
    "device_ids": None,
    "diffusion_config": None,
    "disable_nccl_for_dp_synchronization": None,
    "disable_sliding_window": False,
    "distributed_timeout_seconds": None,
    "dp_sync_interval": 16,
    "ec_manager_config": OBJECT,
    "ec_transfer_config": None,
    "elastic_ep_max_dp_size": None,
    "enable_batch_sharded_sampling": None,
    "enable_cumem_allocator": False,
    "enable_dbo": False,
    "enable_elastic_ep": False,
    "enable_ep_weight_filter": False,
    "enable_eplb": False,
    "enable_expert_parallel": False,
    "enable_fault_tolerance": False,
    "enable_hc_sp": False,
    "enable_mamba_cache_stochastic_rounding": False,
    "enable_mamba_shared_prefix_checkpoint": False,
    "enable_mixed_moe_lora_format": False,
    "enable_moe_shared_loras": False,
    "enable_nccl_comm_suspend": False,
    "enable_shm_tensor_arena": False,
    "engram_config": None,
    "eplb_config": OBJECT,
    "expert_placement_strategy": "linear",
    "fail_on_environ_validation": False,
    "fault_tolerance_config": OBJECT,
    "gdn_prefill_backend": None,
    "hf_overrides": {},
    "ignore_patterns": ["original/**/*"],
    "kda_decode_backend": None,
    "kda_prefill_backend": None,
    "kv_cache_dtype_skip_layers": [],
    "kv_events_config": None,
    "kv_sharing_fast_prefill": False,
    "kv_transfer_config": None,
    "language_model_only": False,
    "load_format": "auto",
    "logits_processors": None,
    "logprobs_mode": "raw_logprobs",
    "lora_dtype": "auto",
    "lora_target_modules": None,
    "mamba_backend": OBJECT,
    "mamba_block_size": None,
    "mamba_cache_dtype": "auto",
    "mamba_cache_mode": "none",
    "mamba_cache_philox_rounds": 0,
    "mamba_config": OBJECT,
    "mamba_ssm_cache_dtype": "auto",
    "mamba_ssu_algorithm": None,
    "master_addr": "127.0.0.1",
    "master_port": 29501,
    "max_lora_cls_labels": None,
    "model_class_overrides": {},
    "model_impl": "auto",
    "model_loader_extra_config": {},
    "model_weights": "",
    "nnodes": 1,
    "node_rank": 0,
    "numa_bind": False,
    "numa_bind_cpus": None,
    "numa_bind_nodes": None,
    "prefill_context_parallel_size": 1,
    "prefix_match_unit": None,
    "pt_load_map_location": "cpu",
    "quantization_config": None,
    "ray_workers_use_nsight": False,
    "reasoning_config": None,
    "reasoning_parser": "",
    "reasoning_parser_plugin": None,
    "replayssm_buffer_len": 16,
    "scheduler_cls": None,
    "sleep_mode_offload_cudagraph": False,
    "sleep_preserve_parameter_names": [],
    "sparse_indexer_topk_backend": "auto",
    "spec_method": None,
    "spec_model": None,
    "spec_tokens": None,
    "structured_outputs_config": OBJECT,
    "swa_bounded_replay": True,
    "ubatch_size": 0,
    "use_fp64_gumbel": False,
    "use_replayssm": False,
    "watermark_config": None,
    "weight_transfer_config": None,
    "worker_cls": "auto",
    "worker_extension_cls": "",
}
"""What only vLLM has and what may change a result, where it runs or whether it runs:
vLLM gets it, another backend refuses it."""

_IMAGES = "prompts are text and token ids, on every backend"
_FILES = (
    "unillm finds the files of a model itself. Download what you want, with "
    "huggingface_hub.snapshot_download for example, and pass its directory as model"
)
_TEXTLESS = (
    "end ids come from the tokenizer. Pass detokenize=False in SamplingParams to get "
    "token ids alone"
)
_INSIDE = "what happens inside the model is not told"
_GENERATES = "unillm generates text; it does not embed, classify or score"

NOWHERE: Mapping[str, tuple[Any, str]] = {
    "allowed_local_media_path": ("", _IMAGES),
    "allowed_media_domains": (None, _IMAGES),
    "aux_output_config": (OBJECT, _INSIDE),
    "code_revision": (None, _FILES),
    "convert": ("auto", _GENERATES),
    "default_mm_loras": (None, _IMAGES),
    "download_dir": (None, _FILES),
    "enable_mm_embeds": (False, _IMAGES),
    "enable_mm_processor_stats": (False, _IMAGES),
    "enable_prompt_embeds": (False, _IMAGES),
    "enable_return_routed_experts": (
        False,
        _INSIDE,
    ),
    "enable_tower_connector_lora": (False, _IMAGES),
    "enable_trace_replay": (False, "it is a tool for the makers of vLLM"),
    "hf_config_path": (None, _FILES),
    "hf_token": (None, f"{_FILES}, or log in with `hf auth login`"),
    "interleave_mm_strings": (False, _IMAGES),
    "io_processor_plugin": (None, _IMAGES),
    "limit_mm_per_prompt": ({}, _IMAGES),
    "max_num_queued_reqs": (None, "the queue is unillm's: see max_queued_requests"),
    "max_num_queued_tokens": (None, "the queue is unillm's: see max_queued_tokens"),
    "media_io_kwargs": ({}, _IMAGES),
    "mm_device_do_normalize": (True, _IMAGES),
    "mm_encoder_attn_backend": (None, _IMAGES),
    "mm_encoder_attn_dtype": (None, _IMAGES),
    "mm_encoder_fp8_scale_path": (None, _IMAGES),
    "mm_encoder_fp8_scale_save_margin": (1.5, _IMAGES),
    "mm_encoder_fp8_scale_save_path": (None, _IMAGES),
    "mm_encoder_only": (False, _IMAGES),
    "mm_encoder_tp_mode": ("weights", _IMAGES),
    "mm_hasher_algorithm": ("blake3", _IMAGES),
    "mm_ipc_gpu_memory_gb": (0, _IMAGES),
    "mm_processor_cache_gb": (4, _IMAGES),
    "mm_processor_cache_type": ("lru", _IMAGES),
    "mm_processor_device": ("auto", _IMAGES),
    "mm_processor_kwargs": (None, _IMAGES),
    "mm_shm_cache_max_object_size_mb": (128, _IMAGES),
    "mm_tensor_ipc": ("direct_rpc", _IMAGES),
    "pooler_config": (None, _GENERATES),
    "return_sampling_mask": (False, _INSIDE),
    "revision": (None, _FILES),
    "runner": ("auto", _GENERATES),
    "skip_mm_profiling": (False, _IMAGES),
    "skip_tokenizer_init": (
        False,
        _TEXTLESS,
    ),
    "tokenizer_mode": ("auto", "the tokenizer's own files say how it is read"),
    "tokenizer_revision": (None, _FILES),
    "tokens_only": (False, _TEXTLESS),
    "video_pruning_method": ("evs", _IMAGES),
    "video_pruning_rate": (None, _IMAGES),
}
"""What no backend honours, with vLLM's default and the reason."""

REMOVED: Mapping[str, str] = {
    "device": "vLLM removed it; the backend takes the device that is there",
    "disable_async_output_proc": "vLLM removed it; leave it out",
    "enable_prompt_adapter": "vLLM removed it, and there is nothing in its place",
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
    "task": "vLLM removed it, and generating is all there is here",
    "use_v2_block_manager": "vLLM removed it; leave it out",
}
"""What vLLM itself refuses by now. `LLM` says what to do instead."""

_HARMLESS: Mapping[str, tuple[Any, ...]] = {
    "config_format": ("hf",),
    "convert": ("none",),
    "load_format": ("hf", "safetensors"),
    "runner": ("generate",),
    "tokenizer_mode": ("hf",),
}
"""Values that ask for what every backend does anyway."""

DEFAULTS: Mapping[str, Any] = {
    **SHARED,
    **TEXT,
    **EFFORT,
    **OWN,
    **{name: default for name, (default, _) in NOWHERE.items()},
}
"""Every argument but ``model``, with vLLM's default."""


@attrs.frozen(kw_only=True)
class SortedArguments:
    """The arguments of one program, by who has to do with them. Defaults are gone."""

    shared: dict[str, Any]
    text: dict[str, Any]
    effort: dict[str, Any]
    own: dict[str, Any]


def sort_arguments(
    given: Mapping[str, Any], *, owner: str, also: Iterable[str] = ()
) -> SortedArguments:
    """Sort what a program gave, without what says no more than vLLM's default.

    Args:
        given: Arguments by name. `None` is "not given", as in ``vllm.LLM``.
        owner: Who was called, for messages.
        also: Names that *owner* takes besides, for the nearest one.

    Raises:
        UnknownArgumentError: vLLM has no such argument, or no longer.
        ConfigError: No backend honours it.
    """
    told = {
        name: value for name, value in given.items() if _says_something(name, value)
    }
    for name, value in told.items():
        if name not in DEFAULTS:
            known = {*DEFAULTS, *also}
            raise UnknownArgumentError(owner, name, known, reason=REMOVED.get(name))
        if name in NOWHERE:
            _, reason = NOWHERE[name]
            raise ConfigError(f"{owner} cannot honour {name}={value!r}: {reason}.")

    def of(names: Mapping[str, Any]) -> dict[str, Any]:
        return {name: told[name] for name in names if name in told}

    return SortedArguments(
        shared=of(SHARED), text=of(TEXT), effort=of(EFFORT), own=of(OWN)
    )


def _says_something(name: str, value: Any) -> bool:
    if name not in DEFAULTS:
        return True
    if value is None or value in _HARMLESS.get(name, ()):
        return False
    default = DEFAULTS[name]
    if default is OBJECT:
        default = _vllms_default(name)
    try:
        return bool(value != default)
    except (TypeError, ValueError):  # an array, for example
        return True


def _vllms_default(name: str) -> Any:
    """Return the default that is an object; who passes it has imported vLLM."""
    engine_args = getattr(sys.modules.get("vllm.engine.arg_utils"), "EngineArgs", None)
    for field in () if engine_args is None else dataclasses.fields(engine_args):
        if field.name == name and field.default_factory is not dataclasses.MISSING:
            return field.default_factory()
        if field.name == name:
            return field.default
    return OBJECT
