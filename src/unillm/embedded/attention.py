# SPDX-License-Identifier: Apache-2.0

"""Scaled dot-product attention for slots, without repeating key and value heads.

With a mask, transformers repeats each key and value head for the query heads that share
it, which in a decode step copies the whole cache in every layer. Here the query heads
of a group become query positions, which gives the same numbers.

Only the attention is registered, no mask function: under this name transformers passes
4D masks on as they are, and makes none of its own. So the engine alone decides what a
row may see. `None` is causal attention of the prompt over itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from ..errors import UnsupportedModelError
from . import flash, ranges
from .families import family_of

NAME = "unillm_slots"
"""Value of ``config._attn_implementation`` under which the engine's models run."""


def use(model: Any) -> None:
    """Make a model attend through `slot_attention`, if its family can.

    Raises:
        UnsupportedModelError: The model is outside transformers' attention interface.
    """
    family = family_of(model.config)
    if family.own_attention or not family.attends:
        return
    model.set_attn_implementation(NAME)
    # A model outside the attention interface ignores the call.
    used = model.config.get_text_config(decoder=True)._attn_implementation  # noqa: SLF001
    if used != NAME:
        raise UnsupportedModelError(
            f"{type(model).__name__} does not use transformers' attention interface "
            f"(it attends through {used!r}), so rows of different lengths cannot be "
            "kept in one cache."
        )


def slot_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend; the signature is that of transformers' attention functions.

    Args:
        module: Not used.
        query: ``[rows, heads, queries, head_dim]``.
        key: ``[rows, kv_heads, keys, head_dim]``.
        value: Like the keys.
        attention_mask: Additive, ``[rows, 1, queries, keys]``; `None` where the keys
            are the queries' own and attention is causal; or the spans of `flash`, or
            the ranges of `ranges`.
        scaling: Factor of the scores; `None` for ``1 / sqrt(head_dim)``.
        softcap: Bound that scores approach and never reach. transformers honours it in
            eager attention, and drops it in SDPA.
        s_aux: ``[heads]``: attention sinks, scores of no position that take their share
            of the weights.

    Returns:
        ``[rows, queries, heads, head_dim]``, and no weights.
    """
    del module
    if ranges.is_ranges(attention_mask):
        assert attention_mask is not None
        assert s_aux is None, "ranges take no sinks"
        attended = ranges.attend(
            query, key, value, attention_mask, scaling, cap=softcap
        )
    elif flash.is_spans(attention_mask):
        assert attention_mask is not None
        attended = flash.attend(query, key, value, attention_mask, scaling)
    elif softcap is not None or s_aux is not None:
        attended = _attend_stepwise(
            query, key, value, attention_mask, scaling, cap=softcap, sinks=s_aux
        )
    elif attention_mask is None:
        attended = scaled_dot_product_attention(
            query,
            key,
            value,
            scale=scaling,
            is_causal=query.shape[2] > 1,
            enable_gqa=query.shape[1] != key.shape[1],
        )
    else:
        attended = _attend_masked(query, key, value, attention_mask, scaling)
    return attended.transpose(1, 2).contiguous(), None


def _attend_masked(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float | None
) -> Tensor:
    """Attend with the heads of a group as positions, or with one head at a time."""
    rows, heads, queries, dim = query.shape
    kv_heads = key.shape[1]
    grouped = query.reshape(rows, kv_heads, heads // kv_heads, queries, dim)
    if queries == 1:
        attended = scaled_dot_product_attention(
            grouped.squeeze(3), key, value, attn_mask=mask, scale=scale
        )
    else:
        # As positions of one call, the heads would need a mask each.
        attended = torch.stack(
            [
                scaled_dot_product_attention(
                    member, key, value, attn_mask=mask, scale=scale
                )
                for member in grouped.unbind(2)
            ],
            dim=2,
        )
    return attended.reshape(rows, heads, queries, value.shape[-1])


def _attend_stepwise(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float | None,
    *,
    cap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """Attend with soft caps or sinks, which SDPA does not take."""
    rows, heads, queries, dim = query.shape
    kv_heads, keys = key.shape[1:3]
    grouped = query.reshape(rows, kv_heads, -1, dim)
    scores = (grouped @ key.transpose(2, 3)) * (dim**-0.5 if scale is None else scale)
    scores = scores.view(rows, heads, queries, keys)
    if cap is not None:
        scores = cap * (scores / cap).tanh()
    if mask is None:
        hidden = torch.ones(queries, keys, dtype=torch.bool, device=key.device).triu(1)
        scores = scores.masked_fill(hidden, torch.finfo(scores.dtype).min)
    else:
        scores = scores + mask
    if sinks is not None:
        sinks = sinks.to(scores.dtype).view(1, -1, 1, 1)
        scores = torch.cat([scores, sinks.expand(rows, -1, queries, 1)], dim=-1)
    weights = scores.softmax(-1, dtype=torch.float32)[..., :keys].to(value.dtype)
    attended = weights.reshape(rows, kv_heads, -1, keys) @ value
    return attended.view(rows, heads, queries, -1)


AttentionInterface.register(NAME, slot_attention)
