# SPDX-License-Identifier: Apache-2.0

"""Temperature, the filters of the distribution, and the draw.

Everything works on *weights*: float32 probabilities relative to the row's most probable
token, which has exactly 1. A dropped token has exactly 0. Sums are taken in 64-bit
integers: they are the same on every device and in every batch, they never decrease, and
so a token of weight 0 cannot be drawn.
"""

from __future__ import annotations

import torch
from torch import Tensor

_ONE = 2.0**42
"""Weight 1 as an integer. Over a vocabulary of 2^21 tokens the sum stays below 2^63."""


def weigh(scores: Tensor, best: Tensor, temperature: Tensor) -> Tensor:
    """Return the weights of *scores* ``[rows, vocab]`` at each row's temperature.

    Args:
        scores: float32 logits; ``-inf`` for tokens that are not allowed.
        best: ``[rows]``: each row's highest score. Taken off before dividing, so that
            no temperature can overflow.
        temperature: ``[rows]``, more than 0.
    """
    return ((scores - best[:, None]) / temperature[:, None]).exp()


def keep_min_p(weights: Tensor, min_p: Tensor) -> Tensor:
    """Drop tokens less probable than *min_p* ``[rows]`` times the most probable one."""
    return weights.masked_fill(weights < min_p[:, None], 0.0)


def keep_top_k(weights: Tensor, scores: Tensor, top_k: list[int]) -> Tensor:
    """Drop all but the *top_k* best tokens of each row; ties with the last one stay.

    Args:
        weights: ``[rows, vocab]``.
        scores: What the weights were made from: compared instead of them, because
            ``exp`` makes different scores equal.
        top_k: For each row, in ``1..vocab``.
    """
    best = scores.topk(max(top_k), dim=-1).values
    last = torch.tensor(top_k).to(scores.device, non_blocking=True) - 1
    return weights.masked_fill(scores < best.gather(1, last[:, None]), 0.0)


def keep_top_p(weights: Tensor, top_p: Tensor) -> Tensor:
    """Keep each row's smallest set of best tokens with *top_p* ``[rows]`` of the mass.

    A token stays if those before it have less than that together, so the best one
    always does. Among equals the lower id comes first.
    """
    ordered, ids = weights.sort(dim=-1, descending=True, stable=True)
    mass = _fixed(ordered)
    sums = mass.cumsum(-1)
    before = (sums - mass).double()
    wanted = top_p.double() * sums[:, -1].double()
    ordered = ordered.masked_fill(before >= wanted[:, None], 0.0)
    return torch.empty_like(weights).scatter_(1, ids, ordered)


def draw(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Return one id for each row: the inverse of the distribution function, in id order.

    Args:
        weights: ``[rows, vocab]``. Each row's largest is 1.
        uniforms: ``[rows]``, float64 in [0, 1).

    Returns:
        ``[rows]``, int64. Of a row with NaN: some id of the vocabulary.
    """
    sums = _fixed(weights).cumsum(-1)
    total = sums[:, -1]
    # The product may round up to the total, where no token would be left.
    target = torch.minimum((uniforms * total.double()).long(), total - 1)
    ids = torch.searchsorted(sums, target[:, None], right=True).squeeze(1)
    return ids.clamp_(max=weights.shape[-1] - 1)


def _fixed(weights: Tensor) -> Tensor:
    return (weights.double() * _ONE).long()
