# SPDX-License-Identifier: Apache-2.0

"""One table of option names: vLLM's, and those of each entry path.

References:
    ``tensorrt_llm/llmapi/llm_args.py`` and ``runtime/model_runner*.py``. `None` where
    an entry path has no such option, or fixes it when the engine is built.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import attrs

from ._entry_paths import EntryPath


@attrs.frozen
class Name:
    """vLLM's name of an option, and its name at each entry path."""

    vllm: str
    pytorch: str | None
    engine: str | None
    runner: str | None
    """Argument of ``ModelRunnerCpp.from_dir``; ``ModelRunner`` reads it from its
    engine."""

    def at(self, entry_path: EntryPath) -> str | None:
        """Return the name at an entry path, dotted for a field of an argument."""
        return {
            EntryPath.PYTORCH: self.pytorch,
            EntryPath.ENGINE: self.engine,
            EntryPath.RUNNER: self.runner,
        }[entry_path]


def _same(vllm: str, theirs: str | None = None, *, runner: str | None = None) -> Name:
    """Return a name that both LLM classes share: *theirs*, or vLLM's own."""
    return Name(vllm, theirs or vllm, theirs or vllm, runner)


_KV = "kv_cache_config."

CONSTRUCTOR = (
    Name("max_model_len", "max_seq_len", "build_config.max_seq_len", "max_output_len"),
    Name(
        vllm="max_num_seqs",
        pytorch="max_batch_size",
        engine="build_config.max_batch_size",
        runner="max_batch_size",
    ),
    Name(
        vllm="max_num_batched_tokens",
        pytorch="max_num_tokens",
        engine="build_config.max_num_tokens",
        runner=None,
    ),
    _same("dtype"),
    _same("trust_remote_code"),
    _same("tensor_parallel_size"),
    _same("pipeline_parallel_size"),
    _same(
        "gpu_memory_utilization",
        _KV + "free_gpu_memory_fraction",
        runner="kv_cache_free_gpu_memory_fraction",
    ),
    _same(
        "enable_prefix_caching",
        _KV + "enable_block_reuse",
        runner="kv_cache_enable_block_reuse",
    ),
    Name("kv_cache_dtype", _KV + "dtype", None, None),
    Name("enforce_eager", "cuda_graph_config", None, None),
    Name("quantization", None, "quant_config.quant_algo", None),
    _same("speculative_config"),
    Name("enable_lora", "lora_config", None, None),
    Name("max_loras", "lora_config.max_loras", None, None),
    Name("max_lora_rank", "lora_config.max_lora_rank", None, None),
)
"""Options of the constructor."""

SAMPLING = (
    _same("max_tokens", runner="max_new_tokens"),
    _same("temperature", runner="temperature"),
    _same("top_p", runner="top_p"),
    _same("top_k", runner="top_k"),
    _same("min_p"),
    _same("seed", runner="random_seed"),
    _same("presence_penalty", runner="presence_penalty"),
    _same("frequency_penalty", runner="frequency_penalty"),
    _same("repetition_penalty", runner="repetition_penalty"),
    _same("stop_token_ids", runner="stop_words_list"),
    _same("logit_bias", "embedding_bias"),
    _same("min_tokens"),
    _same("bad_words", "bad_token_ids", runner="bad_words_list"),
    _same("logprobs"),
    _same("prompt_logprobs"),
    _same("structured_outputs", "guided_decoding"),
    _same("ignore_eos", runner="end_id"),
)
"""Sampling fields of a request."""

BEFORE_0_13: Mapping[str, str] = MappingProxyType(
    {"max_tokens": "max_new_tokens", "seed": "random_seed", "min_tokens": "min_length"}
)
"""Names of ``SamplingParams`` that changed in 0.13: new to old."""


def vllm_name(entry_path: EntryPath, name: str) -> str | None:
    """Return vLLM's name of an entry path's argument; `None` without a counterpart."""
    for each in (*CONSTRUCTOR, *SAMPLING):
        theirs = each.at(entry_path)
        if theirs is not None and theirs.rpartition(".")[2] == name:
            return each.vllm
    return None
