# SPDX-License-Identifier: Apache-2.0

"""The names of one thing at every door, in one table, both ways.

References:
    ``tensorrt_llm/llmapi/llm_args.py`` and ``runtime/model_runner*.py``. `None` where a
    door has no such thing, or fixes it when the engine is built.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import attrs

from ._doors import Door


@attrs.frozen
class Name:
    """One thing: what vLLM calls it, and what each door does."""

    vllm: str
    pytorch: str | None
    engine: str | None
    runner: str | None
    """Of ``ModelRunnerCpp.from_dir``; ``ModelRunner`` has the numbers of its engine."""

    def at(self, door: Door) -> str | None:
        """Return the name at a door. A dot stands between an argument and its field."""
        return {
            Door.PYTORCH: self.pytorch,
            Door.ENGINE: self.engine,
            Door.RUNNER: self.runner,
        }[door]


_KV = "kv_cache_config."

CONSTRUCTOR = (
    Name("max_model_len", "max_seq_len", "build_config.max_seq_len", "max_output_len"),
    Name(
        "max_num_seqs",
        "max_batch_size",
        "build_config.max_batch_size",
        "max_batch_size",
    ),
    Name(
        "max_num_batched_tokens", "max_num_tokens", "build_config.max_num_tokens", None
    ),
    Name("dtype", "dtype", "dtype", None),
    Name("trust_remote_code", "trust_remote_code", "trust_remote_code", None),
    Name("tensor_parallel_size", "tensor_parallel_size", "tensor_parallel_size", None),
    Name(
        "pipeline_parallel_size",
        "pipeline_parallel_size",
        "pipeline_parallel_size",
        None,
    ),
    Name(
        "gpu_memory_utilization",
        _KV + "free_gpu_memory_fraction",
        _KV + "free_gpu_memory_fraction",
        "kv_cache_free_gpu_memory_fraction",
    ),
    Name(
        "enable_prefix_caching",
        _KV + "enable_block_reuse",
        _KV + "enable_block_reuse",
        "kv_cache_enable_block_reuse",
    ),
    Name("kv_cache_dtype", _KV + "dtype", None, None),
    Name("enforce_eager", "cuda_graph_config", None, None),
    Name("quantization", None, "quant_config.quant_algo", None),
    Name("speculative_config", "speculative_config", "speculative_config", None),
)
"""What a generator is created with."""

SAMPLING = (
    Name("max_tokens", "max_tokens", "max_tokens", "max_new_tokens"),
    Name("temperature", "temperature", "temperature", "temperature"),
    Name("top_p", "top_p", "top_p", "top_p"),
    Name("top_k", "top_k", "top_k", "top_k"),
    Name("min_p", "min_p", "min_p", None),
    Name("seed", "seed", "seed", "random_seed"),
    Name(
        "presence_penalty", "presence_penalty", "presence_penalty", "presence_penalty"
    ),
    Name(
        "frequency_penalty",
        "frequency_penalty",
        "frequency_penalty",
        "frequency_penalty",
    ),
    Name(
        "repetition_penalty",
        "repetition_penalty",
        "repetition_penalty",
        "repetition_penalty",
    ),
    Name("stop_token_ids", "stop_token_ids", "stop_token_ids", "stop_words_list"),
    Name("logit_bias", "embedding_bias", "embedding_bias", None),
    Name("ignore_eos", "ignore_eos", "ignore_eos", "end_id"),
)
"""What a request is sampled with."""

BEFORE_0_13: Mapping[str, str] = MappingProxyType(
    {"max_tokens": "max_new_tokens", "seed": "random_seed", "min_tokens": "min_length"}
)
"""Names of ``SamplingParams`` that changed in 0.13: now to then."""


def vllm_name(door: Door, name: str) -> str | None:
    """Return what vLLM and unillm call a door's argument; `None` if nothing does."""
    for each in (*CONSTRUCTOR, *SAMPLING):
        theirs = each.at(door)
        if theirs is not None and theirs.rpartition(".")[2] == name:
            return each.vllm
    return None
