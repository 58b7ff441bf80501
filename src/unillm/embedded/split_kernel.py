# SPDX-License-Identifier: Apache-2.0

"""Attention of one query over its keys, as a Triton kernel that shares long rows.

Each row of keys is split in parts, which different processors read; a second kernel
joins their results. Importing this module needs Triton, which torch brings for CUDA.
Triton gives the arguments of a kernel their types.

References:
    "Flash-Decoding for long-context inference", T. Dao and others, 2023.
"""

# ruff: noqa: ANN001, ANN202, PLR0917
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 64
"""Keys that a processor reads at a time."""

_PROGRAMS = 256
"""Parts that keep an H100 busy. More parts of a row cost more to join."""


def attend(
    query: Tensor, key: Tensor, value: Tensor, spans: Tensor, scale: float
) -> Tensor:
    """Attend with one query for each sequence.

    Args:
        query: ``[sequences, heads, dim]``; *dim* is a power of two.
        key: ``[rows, kv_heads, positions, dim]``: all rows of the cache.
        value: Like the keys.
        spans: ``[3, sequences + 1]``, int32 (`flash`).
        scale: Factor of the scores.

    Returns:
        Shape of *query*.
    """
    count, heads, dim = query.shape
    kv_heads = key.shape[1]
    group = heads // kv_heads
    parts = triton.next_power_of_2(_PROGRAMS // (count * kv_heads))
    parts = min(max(parts, 2), 16)
    query = query.contiguous()
    output = torch.empty_like(query)
    size = (count, heads, parts)
    sums = query.new_empty((*size, dim), dtype=torch.float32)
    weights = query.new_empty((*size, 2), dtype=torch.float32)
    _, places, lengths = spans
    _attend_part[count, kv_heads, parts](
        query,
        key,
        value,
        places,
        lengths,
        sums,
        weights,
        scale * 1.4426950408889634,  # powers of two are cheaper
        key.stride(1),
        heads=heads,
        group=group,
        dim=dim,
        parts=parts,
        block=_BLOCK,
        queries=max(triton.next_power_of_2(group), 16),
    )
    _join_parts[count * heads,](sums, weights, output, dim=dim, parts=parts)
    return output


@triton.jit
def _attend_part(
    query_at,
    key_at,
    value_at,
    places_at,
    lengths_at,
    sums_at,
    weights_at,
    scale,
    head_stride,
    heads: tl.constexpr,
    group: tl.constexpr,
    dim: tl.constexpr,
    parts: tl.constexpr,
    block: tl.constexpr,
    queries: tl.constexpr,
):
    sequence, kv_head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(lengths_at + sequence)
    share = tl.cdiv(tl.cdiv(length, parts), block) * block
    begin = part * share
    end = tl.minimum(begin + share, length)
    members, column, keys = (
        tl.arange(0, queries),
        tl.arange(0, dim),
        tl.arange(0, block),
    )
    is_head = members < group
    head = sequence * heads + kv_head * group + members
    row = tl.load(places_at + sequence).to(tl.int64) * dim + kv_head * head_stride
    query = tl.load(
        query_at + head[:, None] * dim + column, mask=is_head[:, None], other=0.0
    )
    best = tl.full((queries,), -float("inf"), tl.float32)
    total = tl.zeros((queries,), tl.float32)
    summed = tl.zeros((queries, dim), tl.float32)
    for start in range(begin, end, block):
        position = start + keys
        is_key = position < end
        vectors = row + position[:, None] * dim + column
        key = tl.load(key_at + vectors, mask=is_key[:, None], other=0.0)
        score = tl.dot(query, tl.trans(key)) * scale
        score = tl.where(is_key, score, -float("inf"))
        higher = tl.maximum(best, tl.max(score, 1))
        shrink = tl.exp2(best - higher)
        weight = tl.exp2(score - higher[:, None])
        value = tl.load(value_at + vectors, mask=is_key[:, None], other=0.0)
        total = total * shrink + tl.sum(weight, 1)
        summed = summed * shrink[:, None] + tl.dot(weight.to(value.dtype), value)
        best = higher
    place = head * parts + part
    tl.store(sums_at + place[:, None] * dim + column, summed, mask=is_head[:, None])
    tl.store(weights_at + place * 2, best, mask=is_head)
    tl.store(weights_at + place * 2 + 1, total, mask=is_head)


@triton.jit
def _join_parts(sums_at, weights_at, output_at, dim: tl.constexpr, parts: tl.constexpr):
    head = tl.program_id(0)
    column, part = tl.arange(0, dim), tl.arange(0, parts)
    place = head * parts + part
    best = tl.load(weights_at + place * 2)
    total = tl.load(weights_at + place * 2 + 1)
    weight = tl.exp2(best - tl.max(best, 0))
    summed = tl.load(sums_at + place[:, None] * dim + column)
    joined = tl.sum(summed * weight[:, None], 0) / tl.sum(total * weight, 0)
    tl.store(output_at + head * dim + column, joined.to(output_at.dtype.element_ty))
