# SPDX-License-Identifier: Apache-2.0

"""Attention by spans on a CPU, in plain torch: what the kernel of CUDA computes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from unillm.embedded import flash


@flash.attend_spans.register_kernel("cpu")
def attend_spans(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    spans: Tensor,
    *,
    longest: int,
    scale: float,
    split: bool,
) -> Tensor:
    """Attend sequence by sequence; the arguments are those of the kernel."""
    del split
    parts = list(spans[0])
    at = 0
    if len(parts) == 2:
        steps = spans.shape[3] - 2
        assert parts[0][0].tolist()[: steps + 1] == list(range(steps + 1))
        parts[0] = parts[0][:, : steps + 1]
        longest -= steps
    output = torch.zeros(*query.shape[:2], value.shape[-1])
    for part in parts:
        begins, places, lengths = part.tolist()
        for number, place in enumerate(places[:-1]):
            begin, end = at + begins[number], at + begins[number + 1]
            row, left = divmod(place, key.stride(0) // key.stride(2))
            assert left == 0
            assert end - begin <= (longest if part is parts[-1] else 1)
            if begin < end:
                length = lengths[number]
                seen = torch.arange(length)
                own = torch.arange(length - (end - begin), length)
                attended = scaled_dot_product_attention(
                    query[None, begin:end].transpose(1, 2),
                    key[row, None, :, :length],
                    value[row, None, :, :length],
                    attn_mask=seen <= own[:, None],
                    scale=scale,
                    enable_gqa=True,
                )
                output[begin:end] = attended[0].transpose(0, 1).nan_to_num()
        at += begins[-1]
    return output
