# SPDX-License-Identifier: Apache-2.0

"""The model families that the slots serve, and the reasons why others are refused.

A family is served once its tokens were compared with those of ``generate``, one prompt
at a time. This module reads ``config.json`` as data and imports neither torch nor
transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

import attrs

from ..errors import UnsupportedModelError
from .weights import quantised


@attrs.frozen
class Family:
    """A verified family, and how it differs from most of the others."""

    name: str
    """Its common name."""
    window: Literal["", "all layers", "by layer"] = ""
    """Layers with which a ``sliding_window`` was verified: all of them, or those that
    ``layer_types`` names; empty where a window is refused."""
    attends: bool = True
    """Whether any layer keeps keys and values."""
    own_attention: bool = False
    """Whether it attends outside transformers' attention interface, as families with
    ALiBi do. Such code makes its masks from the positions of a row that hold tokens."""
    recurrent: bool = False
    """Whether any layer keeps a state of each row (`recurrent`)."""
    sinks: bool = False
    """Whether attention gives a part of its weight to no position (attention sinks)."""
    compiles: bool = True
    """Whether torch 2.13 compiles its decode steps on a CPU. Latent attention, which
    caches no keys of heads, prevents that."""
    spans: bool = True
    """Whether it may attend by spans (`flash`). Layers without rotation, latent
    attention and code that reads the mask prevent that."""
    one_at_a_time: str = ""
    """Reason why it is served in one slot alone; empty for any number of slots."""

    @property
    def cache_argument(self) -> str:
        """Argument of the model that is its cache."""
        return "past_key_values" if self.attends else "cache_params"


_LOCAL_MASKS = (
    "it masks its local layers by itself, by where the cache ends, so rows of "
    "different lengths would be mixed up"
)

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "apertus": Family("Apertus"),
        "arcee": Family("Arcee"),
        "bamba": Family("Bamba", recurrent=True),
        "bloom": Family("Bloom", own_attention=True),
        "codegen": Family("CodeGen", own_attention=True),
        "cohere": Family("Command R"),
        "cohere2": Family("Command R7B and A", window="by layer", spans=False),
        "deepseek_v2": Family("DeepSeek V2", compiles=False, spans=False),
        "deepseek_v3": Family("DeepSeek V3 and R1", compiles=False, spans=False),
        "ernie4_5": Family("ERNIE 4.5"),
        "exaone4": Family("EXAONE 4", window="by layer"),
        "falcon": Family("Falcon", own_attention=True),
        "falcon_h1": Family("Falcon H1", recurrent=True),
        "falcon_mamba": Family("Falcon Mamba", attends=False, recurrent=True),
        "gemma": Family("Gemma"),
        "gemma2": Family("Gemma 2", window="by layer"),
        "gemma3_text": Family("Gemma 3 (text)", window="by layer"),
        "glm": Family("GLM"),
        "glm4": Family("GLM 4"),
        "glm4_moe": Family("GLM 4.5 and later"),
        "glm4_moe_lite": Family("GLM 4 MoE Lite", compiles=False, spans=False),
        "gpt2": Family("GPT-2", spans=False),
        "gpt_bigcode": Family("StarCoder", spans=False),
        "gpt_neo": Family("GPT-Neo", own_attention=True, one_at_a_time=_LOCAL_MASKS),
        "gpt_neox": Family("GPT-NeoX, Pythia"),
        "gpt_oss": Family("GPT-OSS", window="by layer", sinks=True),
        "gptj": Family("GPT-J", own_attention=True),
        "granite": Family("Granite"),
        "granitemoe": Family("Granite MoE"),
        "granitemoehybrid": Family("Granite 4", recurrent=True),
        "helium": Family("Helium"),
        "hunyuan_v1_dense": Family("Hunyuan"),
        "jamba": Family("Jamba", recurrent=True),
        "lfm2": Family("LFM2", recurrent=True),
        "lfm2_moe": Family("LFM2 MoE", recurrent=True),
        "llama": Family("Llama"),
        "mamba": Family("Mamba", attends=False, recurrent=True),
        "mamba2": Family("Mamba 2", attends=False, recurrent=True),
        "minicpm3": Family("MiniCPM3", compiles=False, spans=False),
        "ministral": Family("Ministral", window="by layer"),
        "mistral": Family("Mistral", window="all layers"),
        "mixtral": Family("Mixtral", window="all layers"),
        "mpt": Family("MPT", own_attention=True),
        "nemotron": Family("Nemotron"),
        "nemotron_h": Family("Nemotron-H", recurrent=True),
        "olmo": Family("OLMo"),
        "olmo2": Family("OLMo 2"),
        "olmo3": Family("OLMo 3", window="by layer"),
        "olmo_hybrid": Family("OLMo Hybrid", recurrent=True),
        "olmoe": Family("OLMoE"),
        "opt": Family("OPT", spans=False),
        "persimmon": Family("Persimmon"),
        "phi": Family("Phi 1 to 2"),
        "phi3": Family("Phi 3 and 4", window="all layers"),
        "qwen2": Family("Qwen2", window="by layer"),
        "qwen2_moe": Family("Qwen2 MoE", window="by layer"),
        "qwen3": Family("Qwen3", window="by layer"),
        "qwen3_5_moe_text": Family("Qwen3.5 MoE (text)", recurrent=True),
        "qwen3_5_text": Family("Qwen3.5 (text)", recurrent=True),
        "qwen3_moe": Family("Qwen3 MoE", window="all layers"),
        "qwen3_next": Family("Qwen3-Next", recurrent=True),
        "seed_oss": Family("Seed-OSS"),
        "smollm3": Family("SmolLM3", window="by layer", spans=False),
        "stablelm": Family("StableLM"),
        "starcoder2": Family("StarCoder2", window="all layers"),
        "youtu": Family("Youtu", compiles=False, spans=False),
        "zamba": Family("Zamba", recurrent=True),
        "zamba2": Family("Zamba 2", recurrent=True),
    }
)
"""The verified families by ``model_type``."""

_OWN_STATE = "it keeps the states of its layers in itself, not in a cache of rows"
_SHARED = "its layers share keys and values, which the slot cache does not do yet"
_CHUNKED = "it scales its queries by the longest row, so rows would not be independent"
_MULTIMODAL = (
    "it is multimodal; its text model alone is served, as a checkpoint of its own"
)

REFUSED: Mapping[str, str] = MappingProxyType(
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
"""Reasons why other families are refused, by ``model_type``."""

_RECURRENT_LAYERS = frozenset(
    {"attention", "conv", "hybrid", "linear_attention", "mamba", "mlp", "moe"}
)
"""Names in ``layer_types`` of recurrent families; "mlp" and "moe" keep nothing."""


def family_of(config: Any) -> Family:
    """Return the family of a transformers configuration, verified or not."""
    model_type: str = config.get_text_config(decoder=True).model_type
    return FAMILIES.get(model_type) or Family(model_type)


def remark_of(config: Mapping[str, Any]) -> str | None:
    """Return a restriction of how a ``config.json`` is served; `None` without one."""
    family = FAMILIES.get(config.get("model_type", ""))
    if family is None or not family.one_at_a_time:
        return None
    return f"it is served one request at a time: {family.one_at_a_time}"


def check_supported(config: Mapping[str, Any]) -> None:
    """Raise `UnsupportedModelError` with the reason, if there is one."""
    if reason := refusal_of(config):
        raise UnsupportedModelError(
            f"The transformers backend cannot serve this model: {reason}."
        )


def refusal_of(config: Mapping[str, Any]) -> str | None:
    """Return why a model with this ``config.json`` cannot be served, or `None`."""
    model_type = config.get("model_type")
    if not model_type:
        return "config.json names no model_type"
    if config.get("is_encoder_decoder"):
        return (
            f"{model_type!r} is an encoder-decoder model: the encoder's keys and "
            "values would need a second cache, and slots hold decoders only"
        )
    if reason := quantised.refusal_of(config):
        return reason
    if reason := REFUSED.get(model_type):
        return f"{model_type!r} is not supported: {reason}"
    if model_type not in FAMILIES:
        verified = ", ".join(sorted(FAMILIES))
        return f"{model_type!r} is not verified yet; verified are: {verified}"
    return _unverified_option(config)


def _unverified_option(config: Mapping[str, Any]) -> str | None:
    """Return which option of a model of a verified family was not verified."""
    family = FAMILIES[config["model_type"]]
    known = {"full_attention"}
    if family.window == "by layer":
        known.add("sliding_attention")
    if family.recurrent:
        known |= _RECURRENT_LAYERS
    if kinds := set(config.get("layer_types") or ()) - known:
        return f"layers of type {', '.join(sorted(kinds))} are not verified yet"
    window = config.get("sliding_window")
    if window and config.get("use_sliding_window", True) and not family.window:
        return (
            f"{config['model_type']!r} with a sliding window of {window} is not "
            "verified yet"
        )
    if config.get("use_bidirectional_attention"):
        return "its tokens see in both directions, so it does not generate"
    if config.get("add_cross_attention"):
        return "it has cross-attention to an encoder, and slots hold decoders only"
    return None
