# SPDX-License-Identifier: Apache-2.0

"""Names of vLLM's API that unillm does not have, with the replacement or the reason."""

from __future__ import annotations

from collections.abc import Mapping

_NO_VECTORS = "unillm generates text; it does not embed, classify or score"
_ASYNC = "use Generator: agenerate() and astream() serve any number of event loops"

VLLM_VERSION = "0.32.0"
"""Version of vLLM whose API this package has."""

UNAVAILABLE_IMPORTS: Mapping[str, str] = {
    "AsyncEngineArgs": "pass its fields to Generator under the same names",
    "AsyncLLMEngine": _ASYNC,
    "ClassificationOutput": _NO_VECTORS,
    "ClassificationRequestOutput": _NO_VECTORS,
    "EmbeddingOutput": _NO_VECTORS,
    "EmbeddingRequestOutput": _NO_VECTORS,
    "GuidedDecodingParams": "vLLM renamed it; use StructuredOutputsParams, and pass it "
    "as SamplingParams(structured_outputs=…)",
    "ModelRegistry": "each backend has its own models; a new engine is a plugin",
    "PoolingOutput": _NO_VECTORS,
    "PoolingParams": _NO_VECTORS,
    "PoolingRequestOutput": _NO_VECTORS,
    "RequestOutputKind": "generate() returns finished outputs, stream() yields new "
    "text",
    "ScoringOutput": _NO_VECTORS,
    "ScoringRequestOutput": _NO_VECTORS,
    "initialize_ray_cluster": "on vLLM, distributed_executor_backend='ray' does it",
}
"""Names that ``from unillm import …`` refuses."""

_INTERNAL = "it is a part of vLLM's own engine; see llm.generator for what all have"
_NO_MEDIA = "prompts are text and token ids, on every backend"

UNAVAILABLE_MODULES: Mapping[str, str] = {
    "assets": _NO_MEDIA,
    "benchmarks": "use unillm bench",
    "config": "pass each option by its own name to LLM; llm.model_config has the facts",
    "distributed.device_communicators": _INTERNAL,
    "distributed.kv_transfer": _INTERNAL,
    "distributed.weight_transfer": "weights do not change while an engine runs",
    "engine.async_llm_engine": _ASYNC,
    "entrypoints.openai": "use unillm serve",
    "model_executor": "each backend has its own models; a new engine is a plugin",
    "multimodal": _NO_MEDIA,
    "platforms": "torch names the devices; each backend uses those that are there",
    "pooling_params": _NO_VECTORS,
    "utils.gpu_sync_debug": _INTERNAL,
    "utils.network_utils": "the parts of an engine find each other themselves",
    "utils.print_utils": _NO_VECTORS,
    "utils.torch_utils": _INTERNAL,
    "v1.core": _INTERNAL,
    "v1.engine": _ASYNC,
    "v1.executor": _INTERNAL,
    "v1.sample": "the caller's code would run between the engine's steps; use "
    "logit_bias, allowed_token_ids, bad_words or structured_outputs",
    "v1.worker": _INTERNAL,
}
"""Modules of vLLM that `install` refuses, with all below them."""

_NO_RPC = "calls do not reach into the engine; llm.generator has what every engine has"
_NO_WEIGHTS = "weights do not change while an engine runs; create a new LLM"
_NO_SLEEP = "an engine either runs or is closed; use close() and create a new LLM"
_PROFILER = "profile the process with a profiler of your own"

UNAVAILABLE_MEMBERS: Mapping[str, str] = {
    "apply_model": _NO_RPC,
    "classify": _NO_VECTORS,
    "collective_rpc": _NO_RPC,
    "default_sampling_params": "use get_default_sampling_params()",
    "embed": _NO_VECTORS,
    "encode": _NO_VECTORS,
    "enqueue": "use llm.generator.submit(), which returns a handle",
    "enqueue_chat": 'use llm.generator.submit({"messages": …})',
    "finish_weight_update": _NO_WEIGHTS,
    "get_weight_version": _NO_WEIGHTS,
    "get_world_size": "see llm.generator.config.tensor_parallel_size",
    "init_weight_transfer_engine": _NO_WEIGHTS,
    "release_kv_cache_memory": _NO_SLEEP,
    "request_counter": "the generator numbers the requests",
    "reset_mm_cache": "prompts are text and token ids, on every backend",
    "reset_prefix_cache": "create the LLM with enable_prefix_caching=False to measure "
    "without the cache",
    "score": _NO_VECTORS,
    "shutdown_weight_transfer_engine": _NO_WEIGHTS,
    "sleep": _NO_SLEEP,
    "start_draft_weight_update": _NO_WEIGHTS,
    "start_profile": _PROFILER,
    "start_weight_update": _NO_WEIGHTS,
    "stop_profile": _PROFILER,
    "update_weight_version": _NO_WEIGHTS,
    "update_weights": _NO_WEIGHTS,
    "wait_for_completion": "use llm.generator.submit() and the handles' result()",
    "wake_up": _NO_SLEEP,
}
"""Members of ``vllm.LLM`` that `LLM` refuses."""
