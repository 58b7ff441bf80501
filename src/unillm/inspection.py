# SPDX-License-Identifier: Apache-2.0

"""The facts about a model that are known before its weights are loaded.

A `Generator` reads the same files in the same way. The headers of the weights give the
memory that weights and cache will need.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from .config import EngineConfig, is_integer
from .engines.slots import DEFAULT_MAX_NUM_BATCHED_TOKENS
from .errors import BackendUnavailableError, ChatTemplateError, ConfigError, ModelError
from .model.checkpoint import stored_tensors
from .model.memory import Limits, memory_needs
from .model.positions import model_positions
from .model.traffic import traffic_of
from .params import SamplingParams
from .process.registry import BackendRegistry
from .resolve import choose_backend, configure
from .text.described import describe_tokenizer
from .text.eos import EosIds
from .text.loading import read_model_text
from .text.tokenizer import Tokenizer

EXAMPLE_MESSAGE = "Hello"
"""The user's message in `ModelReport.chat_example`."""


@attrs.frozen(kw_only=True)
class WeightsReport:
    """The contents of the safetensors files, by their headers."""

    __module__ = "unillm"

    num_files: int
    file_bytes: int
    num_parameters: int
    """Stored parameters: a tensor that two layers share counts once."""
    parameters_by_dtype: Mapping[str, int]
    """By the format's names, such as ``"BF16"``."""


@attrs.frozen(kw_only=True)
class MemoryReport:
    """Bytes that the embedded backend would hold."""

    __module__ = "unillm"

    slots: int
    length: int
    """Prompt and new tokens of one slot."""
    dtype: str
    """Type of weights and cache; "auto" is the checkpoint's."""
    weight_bytes: int
    kv_bytes_per_token: int
    """Keys and values of one slot."""
    kv_bytes: int
    """Cache of all slots, each rounded up to whole blocks, states of recurrent layers
    included."""
    activation_bytes: int
    """Peak of a step with `max_num_batched_tokens`, within a quarter."""
    max_num_batched_tokens: int
    """Prompt tokens of one step: the default."""
    total_bytes: int


@attrs.frozen(kw_only=True)
class StepReport:
    """Bytes and operations of a decode step: at least so many, on any engine."""

    __module__ = "unillm"

    weight_bytes: int
    """Weights that each step reads, without routed experts."""
    expert_bytes: int
    """All routed experts together."""
    num_experts: int
    """0 for a model without routed experts."""
    experts_per_token: int
    kv_bytes_per_token: int
    """Read for each token in the cache; 0 where layers do not read all of it."""
    flops_per_token: int
    """Floating-point operations of one token, without attention."""
    head_flops: int
    """Operations of the output embedding among them. Only the last token of a prompt
    needs these."""


@attrs.frozen(kw_only=True)
class ModelReport:
    """The result of `unillm.inspect_model`."""

    __module__ = "unillm"

    model: str
    """Name or path, as the caller wrote it."""
    path: Path
    architectures: tuple[str, ...]
    model_type: str | None
    backend: str | None
    """The backend that would serve the model; `None` if none can."""
    backend_refusal: str = ""
    """Why no backend, or not the named one, can serve the model."""
    backend_remark: str = ""
    """The backend's remark on how it would serve the model."""
    context_length: int | None
    """Prompt and new tokens together; `None` if config.json names no context."""
    vocab_size: int | None
    """Rows of the model, by config.json."""
    tokenizer_size: int | None
    """One more than the tokenizer's highest id."""
    weights: WeightsReport | None
    """`None` without safetensors files."""
    eos: EosIds
    has_chat_template: bool
    chat_example: str | None
    """One user message after the chat template."""
    chat_refusal: str = ""
    """Why the chat template gives no example."""
    default_sampling_params: SamplingParams
    """The params of a call without params."""
    default_remarks: tuple[str, ...] = ()
    """Generation settings of the model that no call gets."""
    memory: MemoryReport | None
    memory_refusal: str = ""
    """Why there is no estimate of the memory."""
    step: StepReport | None = None
    """`None` where `memory` is `None` too."""


def inspect_model(
    model: str | os.PathLike[str],
    *,
    revision: str | None = None,
    tokenizer: Any = None,
    slots: int | None = None,
    length: int | None = None,
    dtype: str = "auto",
    backend: str = "auto",
    python: str | os.PathLike[str] | None = None,
    trust_remote_code: bool = False,
) -> ModelReport:
    """Report on a model without loading its weights.

    Args:
        model: Directory, hub id, or the bundled ``"unillm/tiny"``. A hub id that is
            not cached is downloaded, weights included.
        revision: Branch, tag or commit of a hub id; `None` for its main branch.
        tokenizer: Path or object, if it is not the model's own.
        slots: Requests at a time, for the memory; `None` for one.
        length: Tokens of a slot, for the memory; `None` for the whole context.
        dtype: Type of weights and cache in memory; "auto" is the checkpoint's.
        backend: The backend that is asked whether it can serve the model.
        python: Interpreter that has it, or the name of an environment.
        trust_remote_code: Run tokenizer code that the checkpoint brings.

    Raises:
        ConfigError: An option has an invalid value.
        ModelError: The model cannot be found or read, or names no EOS token.
        BackendNotFoundError: No backend has the name.
    """
    for name, number in (("slots", slots), ("length", length)):
        if number is not None and not (is_integer(number) and number >= 1):
            raise ConfigError(f"{name} must be an integer ≥ 1 or None, got {number!r}.")
    config = configure(
        model,
        backend,
        python=python,
        revision=revision,
        tokenizer=tokenizer,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
    )
    path = config.path
    text = read_model_text(
        path, tokenizer, trust_remote_code=trust_remote_code, load=describe_tokenizer
    )
    weights = _read_weights(path)
    context_length = _context_length(config)
    if length is not None and context_length is not None and length > context_length:
        raise ConfigError(
            f"length={length} is more than the {context_length} tokens of the model's "
            f"context. Ask for {context_length} or less."
        )
    backend_name, backend_refusal, backend_remark = _choose(config)
    example, chat_refusal = _chat_example(text.tokenizer)
    memory, memory_refusal, step = None, "there are no safetensors files", None
    if weights is not None:
        memory, memory_refusal = _estimate(
            config, slots=slots or 1, length=length or context_length
        )
    if memory is not None:
        step = StepReport(**attrs.asdict(traffic_of(config.path, dtype=config.dtype)))
    return ModelReport(
        model=config.model,
        path=path,
        architectures=tuple(text.model_config.get("architectures") or ()),
        model_type=text.model_config.get("model_type"),
        backend=backend_name,
        backend_refusal=backend_refusal,
        backend_remark=backend_remark,
        context_length=context_length,
        vocab_size=_vocab_size(text.model_config),
        tokenizer_size=text.tokenizer.vocab_size,
        weights=weights,
        eos=text.eos,
        has_chat_template=bool(text.tokenizer.chat_templates),
        chat_example=example,
        chat_refusal=chat_refusal,
        default_sampling_params=text.defaults.params,
        default_remarks=text.defaults.remarks,
        memory=memory,
        memory_refusal=memory_refusal,
        step=step,
    )


def _context_length(config: EngineConfig) -> int | None:
    directories = [config.path]
    if isinstance(config.tokenizer, (str, os.PathLike)):
        # A prepared engine names no context; the directory of its tokenizer may.
        directories.append(Path(os.path.expanduser(config.tokenizer)))
    for directory in directories:
        with contextlib.suppress(ModelError):
            return model_positions(directory)
    return None


def _vocab_size(config: Mapping[str, Any]) -> int | None:
    """Return ``vocab_size``; a multimodal model has it in ``text_config``."""
    for level in (config, config.get("text_config")):
        size = level.get("vocab_size") if isinstance(level, dict) else None
        if isinstance(size, int):
            return size
    return None


def _choose(config: EngineConfig) -> tuple[str | None, str, str]:
    """Return the backend that would serve the model, the refusal and the remark."""
    try:
        backend = choose_backend(BackendRegistry(config.python), config)
    except BackendUnavailableError as error:
        return None, str(error), ""
    if refusal := backend.refusal(config):
        return None, refusal, ""
    return backend.name, "", backend.remark(config) or ""


def _chat_example(tokenizer: Tokenizer) -> tuple[str | None, str]:
    if not tokenizer.chat_templates:
        return None, ""
    message = {"role": "user", "content": EXAMPLE_MESSAGE}
    try:
        return tokenizer.apply_chat_template([message]), ""
    except ChatTemplateError as error:
        return None, str(error)


def _read_weights(path: Path) -> WeightsReport | None:
    files = list(path.glob("*.safetensors"))
    if not files:
        return None
    by_dtype: dict[str, int] = {}
    for tensor in stored_tensors(path):
        count = math.prod(tensor.shape)
        by_dtype[tensor.dtype] = by_dtype.get(tensor.dtype, 0) + count
    return WeightsReport(
        num_files=len(files),
        file_bytes=sum(file.stat().st_size for file in files),
        num_parameters=sum(by_dtype.values()),
        parameters_by_dtype=by_dtype,
    )


def _estimate(
    config: EngineConfig, *, slots: int, length: int | None
) -> tuple[MemoryReport | None, str]:
    """Return the embedded backend's own estimate, or why there is none."""
    if length is None:
        return None, "config.json does not say how long the context is; give a length"
    limits = Limits(
        max_num_seqs=slots,
        max_model_len=length,
        max_num_batched_tokens=DEFAULT_MAX_NUM_BATCHED_TOKENS,
    )
    try:
        found = memory_needs(config.path, dtype=config.dtype).estimate(limits)
    except Exception as error:  # noqa: BLE001 - transformers may raise anything
        return None, f"{type(error).__name__}: {error}"
    report = MemoryReport(
        slots=slots,
        length=length,
        dtype=config.dtype,
        weight_bytes=found.weight_bytes,
        kv_bytes_per_token=found.kv_bytes_per_token,
        kv_bytes=found.cache_bytes,
        activation_bytes=found.activation_bytes,
        max_num_batched_tokens=DEFAULT_MAX_NUM_BATCHED_TOKENS,
        total_bytes=found.total_bytes,
    )
    return report, ""
