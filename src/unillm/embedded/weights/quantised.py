# SPDX-License-Identifier: Apache-2.0

"""Quantised checkpoints: the methods that are served, and why others are refused.

A method is served once its tokens were compared with those of transformers' own
``generate`` of the same checkpoint, and if its arithmetic keeps rows apart. This module
reads ``config.json`` as data.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any

from ...model.declared import quantization_of

PACKAGES: Mapping[str, str] = MappingProxyType(
    {
        "bitsandbytes": "bitsandbytes",
        "compressed-tensors": "compressed_tensors",
        "torchao": "torchao",
    }
)
"""Modules that compute the methods that are served, by ``quant_method``."""

_NEEDS_GPU = "its kernels run on GPUs only and were not compared yet"
_REASONS: Mapping[str, str] = MappingProxyType(
    {
        "awq": _NEEDS_GPU,
        "fbgemm_fp8": _NEEDS_GPU,
        "fp8": _NEEDS_GPU,
        "gptq": _NEEDS_GPU,
        "mxfp4": _NEEDS_GPU,
        "quanto": "transformers cannot store it, so there is nothing to compare with",
    }
)


def method_of(config: Mapping[str, Any]) -> str | None:
    """Return the quantisation method of a ``config.json``; `None` for plain weights."""
    quantisation = quantization_of(config)
    if quantisation is None:
        return None
    method = quantisation.get("quant_method")
    if method is None and _loads_bits(quantisation):
        method = "bitsandbytes"  # older checkpoints leave the method out
    return str(method or "an unknown method")


def refusal_of(config: Mapping[str, Any]) -> str | None:
    """Return why a checkpoint cannot be served as it is stored; `None` if it can."""
    method = method_of(config)
    if method is None:
        return None
    what = f"the checkpoint is quantised ({method})"
    if method not in PACKAGES:
        reason = _REASONS.get(method, "which is not verified yet")
        served = ", ".join(sorted(PACKAGES))
        return f"{what}: {reason}; served are {served}"
    if mixing := _mixes_rows(quantization_of(config) or {}):
        return f"{what}: {mixing}, so rows would not be independent"
    missing = [
        package
        for package in (PACKAGES[method], "accelerate")
        if find_spec(package) is None
    ]
    if missing:
        names = " ".join(package.replace("_", "-") for package in missing)
        return f"{what}, and its packages are not installed. Run: pip install {names}"
    return None


def _loads_bits(quantisation: Mapping[str, Any]) -> bool:
    return bool(quantisation.get("load_in_8bit") or quantisation.get("load_in_4bit"))


def _mixes_rows(quantisation: Mapping[str, Any]) -> str | None:
    """Return which part of a row's arithmetic depends on the other rows of a step."""
    if quantisation.get("load_in_8bit") and quantisation.get("llm_int8_threshold", 6.0):
        return (
            "LLM.int8() chooses its outlier columns over all rows of a step (store it "
            "with llm_int8_threshold=0)"
        )
    for group in (quantisation.get("config_groups") or {}).values():
        inputs = group.get("input_activations") or {}
        if inputs.get("dynamic") and inputs.get("strategy") == "tensor":
            return "its activations are scaled over all rows of a step"
    return None
