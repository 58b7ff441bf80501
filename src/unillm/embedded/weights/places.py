# SPDX-License-Identifier: Apache-2.0

"""Whether each stored tensor has a place in the model, and each place a tensor.

transformers fills places without a tensor with random numbers, leaves out tensors
without a place, and only warns. Both give a model that computes something else, so both
are errors here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ...errors import ModelLoadError
from ...model.checkpoint import StoredTensor
from ...model.declared import BOUNDS, LAYER_NAMES, quantization_of
from ...model.sizes import first_of

_SHOWN = 5

_REMEDY = (
    "Use the config.json that belongs to these weights, or download the model again."
)

_COMPUTED = re.compile(
    r"rotary_emb\.(inv_freq|cos_cached|sin_cached)$|(^|\.)position_ids$"
)
"""Buffers that older versions of transformers stored, and newer ones compute."""

_MASK = re.compile(r"(attn|attention)\.(bias|masked_bias|causal_mask)$")
"""Masks that older versions stored; a bias of that name has one dimension."""

_LAYER = re.compile(r"\.(?:layers|h|blocks)\.(\d{1,6})\.")


def check_size(path: Path, config: Any, tensors: Iterable[StoredTensor]) -> None:
    """Refuse a ``config.json`` that describes a larger model than the weights hold.

    Loading would allocate its memory first. Quantised weights are left to the loading,
    because they are stored in other shapes.

    Args:
        path: Directory of the model.
        config: Its transformers configuration.
        tensors: The stored tensors.

    Raises:
        ModelLoadError: transformers cannot make such a model, or it is larger.
    """
    if quantization_of(config.to_dict()):
        return
    from transformers import AutoModelForCausalLM

    make: Any = AutoModelForCausalLM.from_config
    try:
        with torch.device("meta"):  # shapes alone
            model = make(config)
    except Exception as error:  # transformers raises any error of its parts
        raise ModelLoadError(
            f"transformers cannot make the model of {path / 'config.json'}: "
            f"{type(error).__name__}: {error}"
        ) from error
    shapes = {name: tuple(each.shape) for name, each in model.named_parameters()}
    stored = {each.name: each.shape for each in tensors}
    if _count(shapes.values()) <= _count(stored.values()):
        return
    others = [
        (name, stored[name], shape)
        for name, shape in shapes.items()
        if stored.get(name, shape) != shape
    ]
    raise _no_match(
        path, config, missing=sorted(shapes.keys() - stored.keys()), reshaped=others
    )


def check_places(
    path: Path, config: Any, info: Mapping[str, Any], tensors: Iterable[StoredTensor]
) -> None:
    """Refuse a loaded model with a gap, or with weights that have no place in it.

    Args:
        path: Directory of the model.
        config: Its transformers configuration.
        info: The loading info of ``from_pretrained``.
        tensors: The stored tensors.

    Raises:
        ModelLoadError: A tensor is missing, has another shape or has no place.
    """
    stored = {each.name: each for each in tensors}
    unplaced = [
        name
        for name in sorted(info["unexpected_keys"])
        if not _is_harmless(name, stored.get(name), config)
    ]
    missing = sorted(info["missing_keys"])
    reshaped = sorted(info["mismatched_keys"])
    if missing or reshaped or unplaced:
        raise _no_match(
            path, config, missing=missing, reshaped=reshaped, unplaced=unplaced
        )


def _is_harmless(name: str, tensor: StoredTensor | None, config: Any) -> bool:
    """Whether the model computes the same without a stored tensor."""
    if _COMPUTED.search(name):
        return True
    if _MASK.search(name):
        return tensor is not None and len(tensor.shape) != 1
    # Layers behind the last predict further tokens, for speculation alone.
    found = _LAYER.search(name)
    layers = first_of(config, *LAYER_NAMES)
    further = first_of(config, "num_nextn_predict_layers")
    return found is not None and layers <= int(found[1]) < layers + further


def _count(shapes: Iterable[Sequence[int]]) -> int:
    return sum(torch.Size(shape).numel() for shape in shapes)


def _no_match(
    path: Path,
    config: Any,
    *,
    missing: Sequence[str] = (),
    reshaped: Sequence[tuple[str, Sequence[int], Sequence[int]]] = (),
    unplaced: Sequence[str] = (),
) -> ModelLoadError:
    facts = [
        f"{len(names)} tensors {what} ({_listed(names)})"
        for names, what in (
            (missing, "missing"),
            ([_reshaped(*each, config) for each in reshaped], "of another shape"),
            (unplaced, "without a place in the model"),
        )
        if names
    ]
    return ModelLoadError(
        f"The weights of {path} do not match its config.json: {', '.join(facts)}. "
        f"{_hint(unplaced, config)}{_REMEDY}"
    )


def _reshaped(
    name: str, stored: Sequence[int], wanted: Sequence[int], config: Any
) -> str:
    """Describe a tensor of another shape, with the fields that may be the cause."""
    fields = [
        f"{field}={size}"
        for field in BOUNDS
        if (size := getattr(config, field, None)) in wanted and size not in stored
    ]
    because = f" by {', '.join(fields)}" if fields else ""
    return f"{name} is {list(stored)} and should be {list(wanted)}{because}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join([*names[:_SHOWN], *["…"][: len(names) - _SHOWN]])


def _hint(unplaced: Sequence[str], config: Any) -> str:
    """Name the likely cause of weights without a place."""
    layers = first_of(config, *LAYER_NAMES)
    numbers = [int(found[1]) for name in unplaced if (found := _LAYER.search(name))]
    if layers and max(numbers, default=0) >= layers:
        return (
            f"config.json declares {layers} layers, and the weights have "
            f"{max(numbers) + 1}. "
        )
    if any("scale" in name or "zero_point" in name for name in unplaced):
        return (
            "They look quantised, and config.json has no quantization_config that "
            "says how. "
        )
    return ""
