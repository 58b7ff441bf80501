# SPDX-License-Identifier: Apache-2.0

"""Which models can be held in slots, and why others cannot.

A family is served once its tokens were compared with those of ``generate``, one prompt
at a time. Everything here reads ``config.json`` as data; nothing is imported for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ...errors import UnsupportedModelError
from .checkpoint import read_config

FAMILIES: Mapping[str, str] = MappingProxyType(
    {"gpt2": "GPT-2", "llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}
)
"""``model_type`` of the families that are verified, and what people call them."""

_ALIBI = "its positions are ALiBi biases, which the slot cache does not compute yet"
_RECURRENT = "its layers keep a recurrent state, which the slot cache does not hold yet"
_SLIDING = "its layers see a sliding window, which the slot cache does not mask yet"
_LOCAL = (
    "it masks its local layers by itself, so rows of different lengths get mixed up"
)

_KNOWN_REASONS: Mapping[str, str] = MappingProxyType(
    {
        "bamba": _RECURRENT,
        "bloom": _ALIBI,
        "cohere2": _SLIDING,
        "falcon_h1": _RECURRENT,
        "falcon_mamba": _RECURRENT,
        "gemma2": _SLIDING,
        "gemma3": _SLIDING,
        "gemma3_text": _SLIDING,
        "gpt_neo": _LOCAL,
        "gpt_oss": _SLIDING,
        "granitemoehybrid": _RECURRENT,
        "jamba": _RECURRENT,
        "lfm2": _RECURRENT,
        "mamba": _RECURRENT,
        "mamba2": _RECURRENT,
        "mpt": _ALIBI,
        "qwen3_next": _RECURRENT,
        "recurrent_gemma": _RECURRENT,
        "rwkv": _RECURRENT,
    }
)
"""``model_type`` of families that would need something that is not there."""


def refusal(path: Path) -> str | None:
    """Say why the model of a directory cannot be served, or `None` if it can.

    Raises:
        ModelError: The directory or its ``config.json`` cannot be read.
    """
    return refusal_of(read_config(path))


def check_supported(config: Mapping[str, Any]) -> None:
    """Raise `UnsupportedModelError` with the reason, if there is one."""
    if reason := refusal_of(config):
        raise UnsupportedModelError(
            f"The transformers backend cannot serve this model: {reason}."
        )


def refusal_of(config: Mapping[str, Any]) -> str | None:
    """Say why a model with this ``config.json`` cannot be served, or `None`."""
    model_type = config.get("model_type")
    if not model_type:
        return "config.json names no model_type"
    if config.get("is_encoder_decoder"):
        return f"{model_type!r} is an encoder-decoder, and slots hold decoders only"
    if quantization := config.get("quantization_config"):
        method = quantization.get("quant_method", "an unknown method")
        return f"the checkpoint is quantised ({method}), which is not verified yet"
    if reason := _KNOWN_REASONS.get(model_type):
        return f"{model_type!r} is not supported: {reason}"
    if model_type not in FAMILIES:
        verified = ", ".join(sorted(FAMILIES))
        return f"{model_type!r} is not verified yet; verified are: {verified}"
    return _unusual_layers(config)


def _unusual_layers(config: Mapping[str, Any]) -> str | None:
    """Say what a member of a verified family has that the others do not."""
    kinds = set(config.get("layer_types") or ()) - {"full_attention"}
    if config.get("use_sliding_window") or "sliding_attention" in kinds:
        return f"{config['model_type']!r} with sliding windows is refused: {_SLIDING}"
    if kinds:
        return f"layers of type {', '.join(sorted(kinds))} are not verified yet"
    if config.get("add_cross_attention"):
        return "it has cross-attention to an encoder, and slots hold decoders only"
    if _rope_type(config) == "longrope":
        return (
            "longrope chooses its frequencies by the longest row of a batch, so that "
            "rows would not be independent"
        )
    return None


def _rope_type(config: Mapping[str, Any]) -> str | None:
    # `rope_scaling` until transformers 4, `rope_parameters` from 5 on.
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return rope.get("rope_type") or rope.get("type")
