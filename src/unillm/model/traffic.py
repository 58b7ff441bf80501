# SPDX-License-Identifier: Apache-2.0

"""Bytes and operations of a decode step: lower bounds, by the headers of the weights.

A step reads all weights of the language model but the rows of the input embedding that
no token of the step has. Routed experts are counted apart.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import attrs

from .checkpoint import stored_tensors
from .known_configs import describe_config
from .memory import item_bytes_of
from .sizes import KvShape, first_of

_INPUT_EMBEDDINGS = (
    "embed_tokens.weight",
    "embed_in.weight",
    "tok_embeddings.weight",
    "word_embeddings.weight",
    "wte.weight",
)
_POSITIONS = ("wpe.weight", "embed_positions.weight", "position_embeddings.weight")
_HEADS = ("lm_head.weight", "embed_out.weight", "output.weight")
_OTHER_TOWERS = ("vision", "visual", "audio", "multi_modal", "mtp.")
"""Parts of names of weights that a step of the language model does not read."""


@attrs.frozen(kw_only=True)
class Traffic:
    """Bytes and operations of a decode step, at least."""

    weight_bytes: int
    """Read by each step, without routed experts."""
    expert_bytes: int
    """All routed experts together."""
    num_experts: int
    experts_per_token: int
    kv_bytes_per_token: int
    """Read for each token in the cache; 0 where layers do not read all of it."""
    flops_per_token: int
    """Two for each weight that a token is multiplied with."""
    head_flops: int
    """Operations of the output embedding among them. Only the last token of a prompt
    needs these."""


def traffic_of(path: Path, *, dtype: str = "auto") -> Traffic:
    """Return the traffic of the model in a directory, without loading it.

    Args:
        path: Directory with ``config.json`` and safetensors files.
        dtype: Type of weights and cache; "auto" is the checkpoint's.

    Raises:
        ModelLoadError: A file is missing or cannot be read.
        UnsupportedModelError: The cache of the model is not one of keys and values.
    """
    config = describe_config(path)
    tensors = [t for t in stored_tensors(path) if not _is_elsewhere(t.name)]
    item_bytes = item_bytes_of(dtype, config, tensors)
    has_head = any(tensor.name.endswith(_HEADS) for tensor in tensors)
    read = [
        tensor
        for tensor in tensors
        if not tensor.name.endswith(_POSITIONS)
        and not (has_head and tensor.name.endswith(_INPUT_EMBEDDINGS))
    ]
    experts = [tensor for tensor in read if ".experts." in tensor.name]
    shared = [tensor for tensor in read if ".experts." not in tensor.name]
    text = config.get_text_config(decoder=True)
    num_experts = first_of(text, "num_local_experts", "num_experts", "n_routed_experts")
    per_token = first_of(text, "num_experts_per_tok", "num_experts_per_token")
    if not (num_experts and per_token):
        num_experts = per_token = 0
    numbers = sum(math.prod(tensor.shape) for tensor in shared)
    heads = _HEADS if has_head else _INPUT_EMBEDDINGS  # these are both where tied
    head = [tensor for tensor in shared if tensor.name.endswith(heads)]
    if num_experts:
        routed = sum(math.prod(tensor.shape) for tensor in experts)
        numbers += routed * per_token // num_experts
    return Traffic(
        weight_bytes=sum(tensor.bytes_as(item_bytes) for tensor in shared),
        expert_bytes=sum(tensor.bytes_as(item_bytes) for tensor in experts),
        num_experts=num_experts,
        experts_per_token=per_token,
        kv_bytes_per_token=_kv_bytes(config, text, item_bytes),
        flops_per_token=2 * numbers,
        head_flops=2 * sum(math.prod(tensor.shape) for tensor in head),
    )


def _is_elsewhere(name: str) -> bool:
    return any(part in name for part in _OTHER_TOWERS)


def _kv_bytes(config: Any, text: Any, item_bytes: int) -> int:
    kinds = set(getattr(text, "layer_types", None) or ())
    if kinds - {"full_attention"} or getattr(text, "sliding_window", None):
        return 0
    return KvShape.of(config).bytes_per_token(item_bytes)
