# SPDX-License-Identifier: Apache-2.0

"""Types of the arguments that the calls of `Generator` share."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from typing_extensions import TypedDict

from ..lora import LoRALike, LoRARequest
from ..params import SamplingParams

ParamsLike = SamplingParams | Sequence[SamplingParams] | None
"""One for all prompts, one for each, or `None` for the model's own defaults."""

PriorityLike = int | Sequence[int]
"""One for all prompts, or one for each."""

OnError = Literal["raise", "return"]
"""Whether a list call raises the errors of its requests or returns them."""

UseTqdm = bool | Callable[..., Any] | None
"""Whether to show a progress bar, or a callable that makes one as `tqdm` does; `None`
for several prompts at a terminal."""


class RequestOptions(TypedDict, total=False):
    """Keywords of a call for one request; `Generator.submit` describes each."""

    lora_request: LoRARequest | None
    priority: int
    timeout_s: float | None


class LazyOptions(RequestOptions, total=False):
    """Keywords of a call over lazy prompts; `Generator.generate_iter` has them."""

    max_pending: int | None


class ListOptions(TypedDict, total=False):
    """Keywords of a list call; `Generator.generate` describes each."""

    lora_request: LoRALike
    priority: PriorityLike
    timeout_s: float | None


class GenerateOptions(ListOptions, total=False):
    """Keywords of a list call that blocks its thread."""

    use_tqdm: UseTqdm


class TemplateOptions(TypedDict, total=False):
    """Keywords for the chat template; `Generator.chat` describes each."""

    chat_template: str | None
    chat_template_content_format: str
    add_generation_prompt: bool
    continue_final_message: bool
    tools: Sequence[Any] | None
    chat_template_kwargs: Mapping[str, Any] | None


class ChatOptions(GenerateOptions, TemplateOptions, total=False):
    """Keywords of `Generator.chat`, which describes each."""


class AsyncChatOptions(ListOptions, TemplateOptions, total=False):
    """Keywords of `Generator.achat`."""


class GeneratorOptions(TypedDict, total=False):
    """Keywords of `Generator`, which describes each."""

    backend: str
    python: str | os.PathLike[str] | None
    revision: str | None
    tokenizer: Any
    dtype: str
    max_model_len: int | None
    max_num_seqs: int | None
    max_num_batched_tokens: int | None
    max_logprobs: int | None
    max_queued_requests: int | None
    max_queued_tokens: int | None
    step_timeout_s: float | None
    strict_length: bool
    strict_generation_config: bool
    chat_template: str | None
    trust_remote_code: bool
    seed: int
    enforce_eager: bool
    quantization: str | None
    kv_cache_dtype: str
    tensor_parallel_size: int
    pipeline_parallel_size: int
    data_parallel_size: int
    gpu_memory_utilization: float | None
    enable_prefix_caching: bool | None
    speculative_config: Mapping[str, Any] | None
    enable_lora: bool
    max_loras: int | None
    max_lora_rank: int | None
    backend_options: Mapping[str, Any] | None
