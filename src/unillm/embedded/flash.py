# SPDX-License-Identifier: Apache-2.0

"""FlashAttention over the cache as it lies: each row is read up to its own length.

torch's kernel takes sequences of queries that follow each other, and for each the place
where its keys begin and how many there are. A row of the cache is such a sequence of
keys, so nothing is copied, padded or masked: not for decode steps of uneven rows, and
not for prompts that go on from a prefix.

Instead of a mask the model passes *spans* on, ``[1, parts, 3, sequences + 1]`` of
int32: where each sequence of queries begins and the last one ends, where its keys
begin, and how many keys it has. The last of its queries sees all of them, each other
one less.

Spans of two parts belong to prompts and steps in one pass: one query for each sequence
of the first part but its last, which is empty, and all further queries in the second.
The kernel shares a long row among many processors only if all sequences of a call have
one query.

Compiled layers read rows of one query by a kernel of ours (`split_kernel`), which takes
half to four fifths of the time for that (H100).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..model.sizes import KvShape
from .families import family_of


def serves(model: Any) -> bool:
    """Whether a model whose layers all see whole rows can attend by spans."""
    config = model.config.get_text_config(decoder=True)
    family = family_of(config)
    shape = KvShape.of(config)
    return (
        model.device.type == "cuda"
        and model.dtype in (torch.bfloat16, torch.float16)
        and family.spans  # others read the mask, or cache no keys of heads
        and not (family.own_attention or family.recurrent or family.sinks)
        and not family.one_at_a_time
        and not getattr(config, "attn_logit_softcapping", None)
        # Sizes that the kernel takes.
        and shape.head_dim == shape.value_dim <= 256
        and shape.head_dim % 8 == 0
    )


def pays(rows: int, seen: int) -> bool:
    """Whether a decode step is faster by spans than with a mask (H100)."""
    return seen >= 1024 or rows >= 32


def splits(model: Any) -> bool:
    """Whether compiled layers of a model attend by `split_kernel`."""
    dim = KvShape.of(model.config).head_dim
    return model.device.type == "cuda" and _is_split(dim)


def _is_split(dim: int) -> bool:
    """Whether `split_kernel` takes vectors of this size."""
    return dim >= 16 and dim & (dim - 1) == 0


def spans_of_rows(positions: Tensor, *, row_size: int) -> Tensor:
    """Return the spans of a decode step.

    Args:
        positions: ``[rows]``, int64: position of each row's token.
        row_size: Vectors of one row of the cache, over all heads.
    """
    numbers = torch.arange(positions.shape[0] + 1, device=positions.device)
    lengths = torch.nn.functional.pad(positions + 1, (0, 1))
    spans = torch.stack([numbers, numbers * row_size, lengths])
    return spans.to(torch.int32)[None, None]


def is_spans(mask: object) -> bool:
    """Whether a mask of `attention.slot_attention` is spans."""
    return isinstance(mask, Tensor) and mask.dtype == torch.int32


def attend(
    query: Tensor, key: Tensor, value: Tensor, spans: Tensor, scale: float | None
) -> Tensor:
    """Attend by spans.

    Args:
        query: ``[rows, heads, 1, dim]``, or ``[1, heads, tokens, dim]``.
        key: ``[rows, kv_heads, positions, dim]``: all rows of the cache, and as many
            positions as the longest sequence may have.
        value: Like the keys.
        spans: See above.
        scale: Factor of the scores; `None` for ``1 / sqrt(dim)``.

    Returns:
        Shape of *query*.
    """
    rows, heads, tokens, dim = query.shape
    flat = query.transpose(1, 2).reshape(rows * tokens, heads, dim)
    attended: Tensor = torch.ops.unillm.attend_spans(
        flat,
        key,
        value,
        spans,
        longest=tokens,
        scale=dim**-0.5 if scale is None else scale,
        split=torch.compiler.is_compiling() and _is_split(dim),
    )
    return attended.view(rows, tokens, heads, dim).transpose(1, 2)


def _attend_spans(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    spans: Tensor,
    *,
    longest: int,
    scale: float,
    split: bool,
) -> Tensor:
    if spans.shape[1] == 1:
        part = spans[0, 0]
        if longest == 1:
            return _attend_rows(query, key, value, part, scale, split=split)
        return _attend_part(query, key, value, part, longest, scale)
    steps = spans.shape[3] - 2
    lead = spans[0, 0, :, : steps + 1]
    first = _attend_rows(query[:steps], key, value, lead, scale, split=split)
    rest = query[steps:]
    second = _attend_part(rest, key, value, spans[0, 1], longest - steps, scale)
    return torch.cat([first, second])


def _attend_rows(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    spans: Tensor,
    scale: float,
    *,
    split: bool,
) -> Tensor:
    """Attend with one query for each sequence."""
    if not split:
        return _attend_part(query, key, value, spans, 1, scale)
    # Imported here, because it needs Triton.
    from . import split_kernel

    return split_kernel.attend(query, key, value, spans, scale)


def _attend_part(  # noqa: PLR0917 - a call of a kernel
    query: Tensor, key: Tensor, value: Tensor, spans: Tensor, longest: int, scale: float
) -> Tensor:
    begins, places, lengths = spans
    output: Tensor = torch.ops.aten._flash_attention_forward(  # noqa: SLF001
        query,
        _in_a_row(key),
        _in_a_row(value),
        begins,
        places,
        longest,
        key.shape[2],
        0.0,
        True,
        False,
        scale=scale,
        seqused_k=lengths[:-1],
    )[0]
    return output


def _in_a_row(stored: Tensor) -> Tensor:
    """Return ``[vectors, kv_heads, dim]``: all positions of all rows, one by one.

    Vector *n* of a head is the one that begins *n* vectors after the head's first. Most
    belong to other heads and are never read: a row begins at a multiple of its size.
    """
    rows, heads, positions, dim = stored.shape
    per_row, per_head, per_position, _ = stored.stride()
    vectors = (rows - 1) * (per_row // per_position) + positions
    return stored.as_strided((vectors, heads, dim), (per_position, per_head, 1))


def _like_query(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    spans: Tensor,
    *,
    longest: int,
    scale: float,
    split: bool,
) -> Tensor:
    del key, value, spans, longest, scale, split
    return query.new_empty(query.shape)


attend_spans = torch.library.custom_op(
    "unillm::attend_spans", _attend_spans, mutates_args=(), device_types="cuda"
)
attend_spans.register_fake(_like_query)
