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

from ..errors import UnsupportedModelError
from ..model.checkpoint import read_config
from .weights import quantised

FAMILIES: Mapping[str, str] = MappingProxyType(
    {
        "apertus": "Apertus",
        "arcee": "Arcee",
        "bamba": "Bamba",
        "bloom": "Bloom",
        "codegen": "CodeGen",
        "cohere": "Command R",
        "cohere2": "Command R7B and A",
        "deepseek_v2": "DeepSeek V2",
        "deepseek_v3": "DeepSeek V3 and R1",
        "ernie4_5": "ERNIE 4.5",
        "exaone4": "EXAONE 4",
        "falcon": "Falcon",
        "falcon_h1": "Falcon H1",
        "falcon_mamba": "Falcon Mamba",
        "gemma": "Gemma",
        "gemma2": "Gemma 2",
        "gemma3_text": "Gemma 3 (text)",
        "glm": "GLM",
        "glm4": "GLM 4",
        "glm4_moe": "GLM 4.5 and later",
        "glm4_moe_lite": "GLM 4 MoE Lite",
        "gpt2": "GPT-2",
        "gpt_bigcode": "StarCoder",
        "gpt_neo": "GPT-Neo",
        "gpt_neox": "GPT-NeoX, Pythia",
        "gpt_oss": "GPT-OSS",
        "gptj": "GPT-J",
        "granite": "Granite",
        "granitemoe": "Granite MoE",
        "granitemoehybrid": "Granite 4",
        "helium": "Helium",
        "hunyuan_v1_dense": "Hunyuan",
        "jamba": "Jamba",
        "lfm2": "LFM2",
        "lfm2_moe": "LFM2 MoE",
        "llama": "Llama",
        "mamba": "Mamba",
        "mamba2": "Mamba 2",
        "minicpm3": "MiniCPM3",
        "ministral": "Ministral",
        "mistral": "Mistral",
        "mixtral": "Mixtral",
        "mpt": "MPT",
        "nemotron": "Nemotron",
        "nemotron_h": "Nemotron-H",
        "olmo": "OLMo",
        "olmo2": "OLMo 2",
        "olmo3": "OLMo 3",
        "olmo_hybrid": "OLMo Hybrid",
        "olmoe": "OLMoE",
        "opt": "OPT",
        "persimmon": "Persimmon",
        "phi": "Phi 1 to 2",
        "phi3": "Phi 3 and 4",
        "qwen2": "Qwen2",
        "qwen2_moe": "Qwen2 MoE",
        "qwen3": "Qwen3",
        "qwen3_5_moe_text": "Qwen3.5 MoE (text)",
        "qwen3_5_text": "Qwen3.5 (text)",
        "qwen3_moe": "Qwen3 MoE",
        "qwen3_next": "Qwen3-Next",
        "seed_oss": "Seed-OSS",
        "smollm3": "SmolLM3",
        "stablelm": "StableLM",
        "starcoder2": "StarCoder2",
        "youtu": "Youtu",
        "zamba": "Zamba",
        "zamba2": "Zamba 2",
    }
)
"""``model_type`` of the families that are verified, and what people call them."""

SINKS = frozenset({"gpt_oss"})
"""Families whose attention gives a part of its weight to nothing at all."""

NOT_COMPILED = frozenset(
    {
        "cohere2",
        "deepseek_v2",
        "deepseek_v3",
        "glm4_moe_lite",
        "gpt2",
        "gpt_bigcode",
        "minicpm3",
        "opt",
        "smollm3",
        "youtu",
    }
)
"""Families whose decode steps torch 2.13 does not compile with masks in blocks: they
have layers without rotation, latent attention, or look at the mask themselves."""

WINDOW_ON_ALL = frozenset({"mistral", "mixtral", "phi3", "qwen3_moe", "starcoder2"})
"""Families verified with a ``sliding_window``, which all their layers have."""

WINDOW_BY_LAYER = frozenset(
    {
        "cohere2",
        "exaone4",
        "gemma2",
        "gemma3_text",
        "gpt_oss",
        "ministral",
        "olmo3",
        "qwen2",
        "qwen2_moe",
        "qwen3",
        "smollm3",
    }
)
"""Families verified with a ``sliding_window`` in some layers, by ``layer_types``."""

OWN_ATTENTION = frozenset({"bloom", "codegen", "falcon", "gpt_neo", "gptj", "mpt"})
"""Families outside transformers' attention interface; those with ALiBi are here. Their
own code attends, and makes its masks from which positions of a row hold tokens."""

ONE_AT_A_TIME: Mapping[str, str] = MappingProxyType(
    {
        "gpt_neo": "it masks its local layers by itself, by where the cache ends, so "
        "rows of different lengths would be mixed up",
    }
)
"""Families that are served in one slot alone, and why."""

RECURRENT = frozenset(
    {
        "bamba",
        "falcon_h1",
        "falcon_mamba",
        "granitemoehybrid",
        "jamba",
        "lfm2",
        "lfm2_moe",
        "mamba",
        "mamba2",
        "nemotron_h",
        "olmo_hybrid",
        "qwen3_5_moe_text",
        "qwen3_5_text",
        "qwen3_next",
        "zamba",
        "zamba2",
    }
)
"""Families some or all of whose layers keep a state of each row (`states`)."""

RECURRENT_LAYERS = frozenset(
    {"attention", "conv", "hybrid", "linear_attention", "mamba", "mlp", "moe"}
)
"""Their ``layer_types``, in older words too; "mlp" and "moe" keep nothing."""

CACHE_ARGUMENTS: Mapping[str, str] = MappingProxyType(
    dict.fromkeys(("falcon_mamba", "mamba", "mamba2"), "cache_params")
)
"""Families of which no layer attends, and under which name they take their cache."""

_OWN_STATE = "it keeps the states of its layers in itself, not in a cache of rows"
_SHARED = "its layers share keys and values, which the slot cache does not do yet"
_CHUNKED = "it scales its queries by the longest row, so rows would not be independent"
_MULTIMODAL = (
    "it is multimodal; its text model alone is served, as a checkpoint of its own"
)

_KNOWN_REASONS: Mapping[str, str] = MappingProxyType(
    {
        "gemma3": _MULTIMODAL,
        "gemma3n": _SHARED,
        "gemma3n_text": _SHARED,
        "llama4": _MULTIMODAL,
        "llama4_text": _CHUNKED,
        "recurrent_gemma": _OWN_STATE,
        "rwkv": _OWN_STATE,
    }
)
"""``model_type`` of families that would need something that is not there."""


def refusal(path: Path) -> str | None:
    """Say why the model of a directory cannot be served, or `None` if it can.

    Raises:
        ModelError: The directory or its ``config.json`` cannot be read.
    """
    return refusal_of(read_config(path))


def remark(path: Path) -> str | None:
    """Say what a person should know of how a model would be served, if anything.

    Raises:
        ModelError: The directory or its ``config.json`` cannot be read.
    """
    reason = ONE_AT_A_TIME.get(read_config(path).get("model_type", ""))
    return reason and f"it is served one request at a time: {reason}"


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
        return (
            f"{model_type!r} is an encoder-decoder: what its encoder makes of a prompt "
            "would need a cache of its own, and slots hold decoders only"
        )
    if reason := quantised.refusal_of(config):
        return reason
    if reason := _KNOWN_REASONS.get(model_type):
        return f"{model_type!r} is not supported: {reason}"
    if model_type not in FAMILIES:
        verified = ", ".join(sorted(FAMILIES))
        return f"{model_type!r} is not verified yet; verified are: {verified}"
    return _unusual_layers(config)


def _unusual_layers(config: Mapping[str, Any]) -> str | None:
    """Say what a member of a verified family has that the others do not."""
    family = config["model_type"]
    known = {"full_attention"}
    if family in WINDOW_BY_LAYER:
        known.add("sliding_attention")
    if family in RECURRENT:
        known |= RECURRENT_LAYERS
    if kinds := set(config.get("layer_types") or ()) - known:
        return f"layers of type {', '.join(sorted(kinds))} are not verified yet"
    window = config.get("sliding_window")
    if window and config.get("use_sliding_window", True) and not _has_window(family):
        return f"{family!r} with a sliding window of {window} is not verified yet"
    if config.get("use_bidirectional_attention"):
        return "its tokens see in both directions, so it does not generate"
    if config.get("add_cross_attention"):
        return "it has cross-attention to an encoder, and slots hold decoders only"
    return None


def _has_window(family: str) -> bool:
    return family in WINDOW_ON_ALL or family in WINDOW_BY_LAYER
