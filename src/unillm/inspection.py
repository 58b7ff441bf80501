# SPDX-License-Identifier: Apache-2.0

"""What there is to know of a model without loading its weights.

The same readings as a `Generator` takes (end ids, defaults, chat template), and from
the headers of the weights what they and the cache will need.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from .config import EngineConfig
from .errors import BackendUnavailableError, ChatTemplateError, ModelLoadError
from .models import find_model
from .params import SamplingParams
from .plugins import PluginRegistry, choose_backend
from .text.eos import EosIds, read_config_file, resolve_eos
from .text.tokenizer import Tokenizer, load_tokenizer

EXAMPLE_MESSAGE = "Hello"
"""What the user says in `ModelReport.chat_example`."""

_MAX_HEADER_BYTES = 100 * 2**20
"""The format's own limit."""


@attrs.frozen(kw_only=True)
class WeightsReport:
    """What the headers of the safetensors files say."""

    __module__ = "unillm"

    num_files: int
    num_parameters: int
    """As stored: a tensor that two layers share counts once."""
    stored_bytes: int
    parameters_by_dtype: Mapping[str, int]
    """By the format's names, such as ``"BF16"``."""


@attrs.frozen(kw_only=True)
class MemoryReport:
    """Bytes that the embedded backend will hold, before activations."""

    __module__ = "unillm"

    slots: int
    length: int
    """Prompt and new tokens of one slot."""
    dtype: str
    """Of weights and cache."""
    weight_bytes: int
    kv_bytes_per_token: int
    kv_bytes: int
    """Of all slots at full length."""
    total_bytes: int


@attrs.frozen(kw_only=True)
class ModelReport:
    """What `unillm.inspect_model` found."""

    __module__ = "unillm"

    model: str
    """As the caller wrote it."""
    path: Path
    architectures: tuple[str, ...]
    model_type: str | None
    backend: str | None
    """Which would serve it; `None` if none can."""
    backend_refusal: str = ""
    """Why it cannot be served by what was asked for."""
    context_length: int | None
    """Prompt and new tokens together, by config.json; `None` if it does not say."""
    vocab_size: int | None
    """Rows of the model, by config.json."""
    tokenizer_size: int | None
    """One more than the tokenizer's highest id."""
    weights: WeightsReport | None
    """`None` without safetensors files."""
    eos: EosIds
    has_chat_template: bool
    chat_example: str | None
    """What the template makes of one message of a user."""
    chat_refusal: str = ""
    """Why there is no example although there is a template."""
    default_sampling_params: SamplingParams
    """What a call without params uses."""
    memory: MemoryReport | None
    memory_refusal: str = ""
    """Why there is no estimate."""


def inspect_model(
    model: str | os.PathLike[str],
    *,
    tokenizer: Any = None,
    slots: int | None = None,
    length: int | None = None,
    dtype: str = "auto",
    backend: str = "auto",
    trust_remote_code: bool = False,
) -> ModelReport:
    """Report on a model without loading its weights.

    Args:
        model: Directory, hub id, or the bundled ``"unillm/tiny"``. A hub id that is
            not cached is downloaded, weights included.
        tokenizer: Path or object, if it is not the model's own.
        slots: Requests at a time, for the memory; `None` for one.
        length: Tokens of a slot, for the memory; `None` for the whole context.
        dtype: Of weights and cache in memory; "auto" is the checkpoint's.
        backend: Which one is asked whether it can serve the model.
        trust_remote_code: Run code that the checkpoint's tokenizer brings.

    Raises:
        ConfigError: An option has a value that cannot work.
        ModelError: The model cannot be found or read, or names no end id.
        BackendNotFoundError: No backend has the name.
    """
    config = EngineConfig.create(
        model=os.fspath(model),
        path=find_model(model),
        backend=backend,
        tokenizer=tokenizer,
        dtype=dtype,
        max_num_seqs=slots,
        max_model_len=length,
        trust_remote_code=trust_remote_code,
    )
    path = config.path
    model_config = read_config_file(path, "config.json") or {}
    generation_config = read_config_file(path, "generation_config.json")
    wrapped = load_tokenizer(
        path if config.tokenizer is None else config.tokenizer,
        trust_remote_code=trust_remote_code,
    )
    context_length = _first_integer(model_config, _CONTEXT_KEYS)
    name, refusal = _choose(config)
    example, chat_refusal = _chat_example(wrapped)
    memory, memory_refusal = _estimate(config, context_length)
    return ModelReport(
        model=config.model,
        path=path,
        architectures=tuple(model_config.get("architectures") or ()),
        model_type=model_config.get("model_type"),
        backend=name,
        backend_refusal=refusal,
        context_length=context_length,
        vocab_size=_first_integer(model_config, ("vocab_size",)),
        tokenizer_size=wrapped.vocab_size,
        weights=read_weights(path),
        eos=resolve_eos(
            wrapped,
            generation_config=generation_config,
            config=model_config or None,
        ),
        has_chat_template=wrapped.chat_template is not None,
        chat_example=example,
        chat_refusal=chat_refusal,
        default_sampling_params=SamplingParams.from_generation_config(
            generation_config or {}
        ),
        memory=memory,
        memory_refusal=memory_refusal,
    )


# ------------------------------------------------------------------------------ config

_CONTEXT_KEYS = (
    "max_position_embeddings",
    "n_positions",  # GPT-2
    "n_ctx",
    "max_seq_len",  # MPT, DBRX
    "max_sequence_length",
    "seq_length",  # ChatGLM
)


def _first_integer(config: Mapping[str, Any], keys: tuple[str, ...]) -> int | None:
    """Return the first of *keys*; a multimodal model has it one deeper."""
    for level in (config, config.get("text_config")):
        for key in keys if isinstance(level, Mapping) else ():
            value = level.get(key)
            if isinstance(value, int):
                return value
    return None


def _choose(config: EngineConfig) -> tuple[str | None, str]:
    """Return the backend that would serve the model, or why none would."""
    try:
        backend = choose_backend(PluginRegistry(), config)
    except BackendUnavailableError as error:
        return None, str(error)
    refusal = backend.refusal(config)
    return (None, refusal) if refusal else (backend.name, "")


def _chat_example(tokenizer: Tokenizer) -> tuple[str | None, str]:
    if tokenizer.chat_template is None:
        return None, ""
    message = {"role": "user", "content": EXAMPLE_MESSAGE}
    try:
        return tokenizer.apply_chat_template([message]), ""
    except ChatTemplateError as error:
        return None, str(error)


# ----------------------------------------------------------------------------- weights


def read_weights(path: Path) -> WeightsReport | None:
    """Read the headers of the weights in a directory; `None` if there are none.

    Raises:
        ModelLoadError: A file is cut or is no safetensors file.

    References:
        https://github.com/huggingface/safetensors#format
    """
    files = _weight_files(path)
    if not files:
        return None
    by_dtype: dict[str, int] = {}
    stored_bytes = 0
    for dtype, shape, num_bytes in _tensors(files):
        by_dtype[dtype] = by_dtype.get(dtype, 0) + math.prod(shape)
        stored_bytes += num_bytes
    return WeightsReport(
        num_files=len(files),
        num_parameters=sum(by_dtype.values()),
        stored_bytes=stored_bytes,
        parameters_by_dtype=by_dtype,
    )


def _weight_files(path: Path) -> list[Path]:
    """Return the files that transformers loads; others may repeat their contents."""
    index = read_config_file(path, "model.safetensors.index.json") or {}
    names = {str(name) for name in (index.get("weight_map") or {}).values()}
    if not names and (path / "model.safetensors").is_file():
        names = {"model.safetensors"}
    if names:
        return sorted(path / name for name in names)
    return sorted(path.glob("*.safetensors"))


def _tensors(files: list[Path]) -> Iterator[tuple[str, list[int], int]]:
    """Dtype, shape and bytes of every tensor."""
    for file in files:
        try:
            header = _read_header(file)
            for name, entry in header.items():
                if name != "__metadata__":
                    start, end = entry["data_offsets"]
                    yield entry["dtype"], entry["shape"], end - start
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelLoadError(
                f"{str(file)!r} is no whole safetensors file: {error}. Copy or "
                "download it again; a git-lfs pointer in its place is a small text."
            ) from error


def _read_header(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > min(_MAX_HEADER_BYTES, file.stat().st_size):
            raise ValueError(f"its header claims {length} bytes")
        header = json.loads(stream.read(length))
    if not isinstance(header, dict):
        raise TypeError("its header is no JSON object")
    return header
