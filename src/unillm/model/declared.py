# SPDX-License-Identifier: Apache-2.0

"""The values of a ``config.json``, checked before anything is computed from them.

Libraries make a list or a layer for each number that they find there, and call methods
of whatever stands in the place of an object.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..errors import ModelLoadError

LAYER_NAMES = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
"""Names of the number of layers."""

POSITION_NAMES = (
    "max_position_embeddings",
    "n_positions",  # GPT-2
    "n_ctx",
    "max_seq_len",  # MPT, DBRX
    "max_sequence_length",
    "seq_length",  # Bloom, ChatGLM
)
"""Names of the context."""

MAX_POSITIONS = 2**31 - 1

_MAX_LAYERS = 10_000
_MAX_SIZE = 2**24
_MAX_VOCABULARY = 2**21

_SIZE_NAMES = (
    *("hidden_size", "n_embd", "d_model", "vocab_size"),
    *("intermediate_size", "moe_intermediate_size", "ffn_dim", "ffn_hidden_size"),
    *("n_inner", "head_dim", "num_attention_heads", "n_head", "n_heads"),
    *("num_key_value_heads", "num_kv_heads", "num_experts", "num_local_experts"),
    *("n_routed_experts", "original_max_position_embeddings"),
)

BOUNDS: Mapping[str, int] = MappingProxyType(
    {
        **dict.fromkeys(_SIZE_NAMES, _MAX_SIZE),
        **dict.fromkeys(POSITION_NAMES, MAX_POSITIONS),
        **dict.fromkeys(LAYER_NAMES, _MAX_LAYERS),
        "vocab_size": _MAX_VOCABULARY,
    }
)
"""Sizes by name, and the largest value of each: far above any model, and so low that a
library which counts to it comes to an end."""

_MAY_BE_ZERO = ("num_experts", "num_local_experts", "n_routed_experts")
"""Sizes that are 0 in a dense model of a family that also has sparse ones."""

_PARTS = ("text_config", "pretrained_config")
"""Configs inside of a config: of the text model, and of the model of a built engine."""

_OBJECTS = (
    *_PARTS,
    "quantization_config",
    "compression_config",
    "rope_scaling",
    "rope_parameters",
    "auto_map",
)
_TEXTS = ("model_type",)
_LISTS_OF_TEXTS = ("architectures", "layer_types")


def check_declared(config: Mapping[str, Any], *, file: Path) -> None:
    """Check the types and sizes of a ``config.json``, and those of its inner configs.

    Args:
        config: Content of the file.
        file: Its path, for messages.

    Raises:
        ModelLoadError: A value has the wrong type or is out of bounds.
    """
    for field, expected, value in _faults(config):
        raise ModelLoadError(
            f"{file}: {field} must be {expected}, got {_shown(value)}. Correct the "
            "file, or download it again."
        )


def text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the values of the text model, which a multimodal model keeps apart."""
    inner = config.get("text_config")
    return {**config, **inner} if isinstance(inner, Mapping) else config


def quantization_of(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return how the weights are quantised; `None` for plain weights.

    Reads the key ``quantization_config``, and ``compression_config``, which older
    checkpoints of compressed-tensors have, of the model and of its text model.
    """
    for level in (config, config.get("text_config")):
        for key in ("quantization_config", "compression_config"):
            found = level.get(key) if isinstance(level, Mapping) else None
            if isinstance(found, Mapping) and found:
                return found
    return None


def _faults(
    config: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, str, Any]]:
    """Yield name, expectation and value of each field that is wrong."""
    for name in _OBJECTS:
        value = config.get(name)
        if value is not None and not isinstance(value, Mapping):
            yield prefix + name, "an object", value
    for name in _TEXTS:
        value = config.get(name)
        if value is not None and not isinstance(value, str):
            yield prefix + name, "a text", value
    for name in _LISTS_OF_TEXTS:
        value = config.get(name)
        if value is not None and not (
            isinstance(value, list)
            and len(value) <= _MAX_LAYERS
            and all(isinstance(each, str) for each in value)
        ):
            yield prefix + name, "a list of texts", value
    for name, largest in BOUNDS.items():
        least = 0 if name in _MAY_BE_ZERO else 1
        value = config.get(name)
        each = value if isinstance(value, list) else [value]  # a list has one a layer
        if value is not None and not all(_is_size(n, least, largest) for n in each):
            yield prefix + name, f"an integer from {least} to {largest:,}", value
    for name in ("rope_scaling", "rope_parameters"):
        yield from _rope_faults(config.get(name), prefix + name)
    window = config.get("sliding_window")
    least = -1  # without one
    if window is not None and not _is_size(window, least, MAX_POSITIONS):
        yield prefix + "sliding_window", "a number of positions", window
    for part in _PARTS:
        inner = config.get(part)
        if isinstance(inner, Mapping):
            yield from _faults(inner, f"{prefix}{part}.")


def _rope_faults(rope: Any, name: str) -> Iterator[tuple[str, str, Any]]:
    if not isinstance(rope, Mapping):
        return
    for key, value in rope.items():
        if isinstance(value, Mapping):  # one for each type of layer
            yield from _rope_faults(value, f"{name}.{key}")
    for key in ("factor", "rope_theta"):
        value = rope.get(key)
        if value is not None and not _is_positive(value):
            yield f"{name}.{key}", "a number above 0", value


def _is_size(value: Any, least: int, largest: int) -> bool:
    return type(value) is int and least <= value <= largest


def _is_positive(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return 0 < value < MAX_POSITIONS and math.isfinite(value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
