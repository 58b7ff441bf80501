# SPDX-License-Identifier: Apache-2.0

"""Scaled dot-product attention for slots, without repeating key and value heads.

transformers repeats each key and value head for the query heads that share it whenever
there is a mask. In a decode step that copies the whole cache once a layer. Here the
query heads of a group become query positions instead, which gives the same numbers.

Only the attention is registered, no mask: a model under this name passes 4D masks on as
they are, and makes none of its own. So the engine alone says what a row may see; no
mask means causal attention of the prompt over itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME = "unillm_slots"
"""Value of ``config._attn_implementation`` under which the engine's models run."""


def slot_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend; the signature is that of transformers' attention functions.

    Args:
        module: Not used: what it would say, the arguments say.
        query: ``[rows, heads, queries, head_dim]``.
        key: ``[rows, kv_heads, keys, head_dim]``.
        value: Like the keys.
        attention_mask: Additive, ``[rows, 1, queries, keys]``; `None` where the keys
            are the queries' own and attention is causal.
        scaling: Factor of the scores; `None` for ``1 / sqrt(head_dim)``.

    Returns:
        ``[rows, queries, heads, head_dim]``, and no weights.
    """
    del module
    rows, heads, queries, _dim = query.shape
    kv_heads = key.shape[1]
    if attention_mask is None:
        attended = scaled_dot_product_attention(
            query,
            key,
            value,
            scale=scaling,
            is_causal=queries > 1,
            enable_gqa=heads != kv_heads,
        )
        return attended.transpose(1, 2).contiguous(), None
    group = heads // kv_heads
    query = query.reshape(rows, kv_heads, group * queries, -1)
    if queries > 1:
        attention_mask = attention_mask.repeat(1, 1, group, 1)
    attended = scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask, scale=scaling
    )
    attended = attended.reshape(rows, heads, queries, -1)
    return attended.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, slot_attention)
