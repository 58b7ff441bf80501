# SPDX-License-Identifier: Apache-2.0

"""The models that CTranslate2 converts correctly, and the reasons to refuse others.

CTranslate2's converter ignores unknown options of a configuration, and the converted
model then computes other logits. This plugin serves a family once tests have compared
its tokens with transformers', and only with the compared values.

References:
    CTranslate2 4.8.5, ``converters/transformers.py``, and the tests of this plugin.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from unillm.backend import load_config, positions_of, quantization_of, read_config
from unillm.errors import UnsupportedModelError

_LINEAR = {"rope_type": ("default", "linear")}
_UNSCALED = {"rope_type": ("default",)}
_SILU = {"hidden_act": ("silu",)}

FAMILIES: Mapping[str, Mapping[str, tuple[Any, ...]]] = MappingProxyType(
    {
        "bloom": {"apply_residual_connection_post_layernorm": (False,)},
        "codegen": {},
        "falcon": {
            "multi_query": (True,),
            "new_decoder_architecture": (False,),
            "alibi": (False,),
            "parallel_attn": (True,),
            "rope_theta": (10_000.0,),
            **_UNSCALED,
        },
        "gemma": _UNSCALED,
        "gemma3_text": {
            "attn_logit_softcapping": (None,),
            "final_logit_softcapping": (None,),
            **_UNSCALED,
        },
        "gpt2": {
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,),
        },
        "gpt_bigcode": {"multi_query": (True,), "scale_attn_weights": (True,)},
        "gptj": {},
        "llama": {**_SILU, **_LINEAR},
        "mistral": {**_SILU, **_LINEAR},
        "opt": {},
        "qwen2": {**_SILU, **_LINEAR},
        "qwen3": {**_SILU, **_LINEAR},
    }
)
"""``model_type`` of the compared families, and the compared values of their options.
Other options are converted as they are."""

_REASONS: Mapping[str, str] = MappingProxyType(
    {
        "gemma2": "CTranslate2 ignores its soft-capping of logits",
        "gpt_neox": "CTranslate2's converter does not know its form in transformers 5",
        "phi": "CTranslate2's converter does not know its form in transformers 5",
        "phi3": "CTranslate2's converter does not know its form in transformers 5",
        "mpt": "CTranslate2's converter does not know its form in transformers 5",
    }
)


def refusal_of(path: Path, *, max_model_len: int | None) -> str | None:
    """Return why the model of a directory cannot be served, or `None`.

    Reads ``config.json`` as data.

    Raises:
        ModelError: The file cannot be read.
    """
    declared = read_config(path)
    family = str(declared.get("model_type"))
    if family not in FAMILIES:
        reason = _REASONS.get(family)
        because = f"{reason}. " if reason else ""
        return (
            f"the family {family!r} is not among those that CTranslate2 is known to "
            f"convert correctly: {because}It converts {', '.join(FAMILIES)}"
        )
    if quantization_of(declared):
        return (
            "its weights are quantised already, and CTranslate2's converter needs the "
            "original; pass that one with a quantization"
        )
    return _refusal_of_values(family, load_config(path), max_model_len)


def check_supported(path: Path, *, max_model_len: int | None) -> None:
    """Raise `UnsupportedModelError` if a model cannot be served."""
    if reason := refusal_of(path, max_model_len=max_model_len):
        raise UnsupportedModelError(f"CTranslate2 cannot serve {path}: {reason}.")


def _refusal_of_values(
    family: str, config: Any, max_model_len: int | None
) -> str | None:
    for name, allowed in FAMILIES[family].items():
        for value in _values(config, name):
            if value not in allowed:
                wanted = " or ".join(map(repr, allowed))
                return (
                    f"its {name} is {value!r}, and CTranslate2 converts {family!r} as "
                    f"if it were {wanted}"
                )
    if family == "gemma3_text" and config.query_pre_attn_scalar != config.head_dim:
        return (
            f"its query_pre_attn_scalar is {config.query_pre_attn_scalar}, and "
            f"CTranslate2 uses head_dim, {config.head_dim}, instead"
        )
    return _refusal_of_window(config, max_model_len)


def _values(config: Any, name: str) -> set[Any]:
    """Return the values of an option in all kinds of layers."""
    if name not in ("rope_type", "rope_theta"):
        return {getattr(config, name, None)}
    ropes = config.rope_parameters or {}
    by_layer = [each for each in ropes.values() if isinstance(each, Mapping)]
    return {each.get(name, "default") for each in by_layer or [ropes]}


def _refusal_of_window(config: Any, max_model_len: int | None) -> str | None:
    """Refuse a window that a request could exceed."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if not window or (kinds and "sliding_attention" not in kinds):
        return None
    if getattr(config, "use_sliding_window", True) is False:
        return None
    if (max_model_len or positions_of(config)) <= window:
        return None
    return (
        f"its layers attend over a window of {window} tokens, and CTranslate2 computes "
        f"longer prompts differently. Pass max_model_len={window} or less"
    )
