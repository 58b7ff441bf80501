# SPDX-License-Identifier: Apache-2.0

"""Temperature, the filters of the distribution, and the draw.

All functions take *weights*: float32 probabilities relative to the row's most probable
token, whose weight is exactly 1. A dropped token has the weight 0. Sums are 64-bit
integers: they are equal on every device and in every batch.
"""

from __future__ import annotations

from torch import Tensor

from .fetch import send

_ONE = 2.0**42
"""Weight 1 as an integer; a power of two, so that float32 weights scale exactly. Over a
vocabulary of 2^21 tokens the sum stays below 2^63."""

_FEW = 1024
"""Nearly every top_p keeps fewer tokens than this."""


def weigh(scores: Tensor, best: Tensor, temperature: Tensor) -> Tensor:
    """Return the weights of *scores* ``[rows, vocab]`` at each row's temperature.

    Args:
        scores: float32 logits; ``-inf`` for tokens that are not allowed.
        best: ``[rows]``: each row's highest score. It is subtracted before the
            division, so that no temperature overflows.
        temperature: ``[rows]``, above 0.
    """
    return ((scores - best[:, None]) / temperature[:, None]).exp()


def keep_min_p(weights: Tensor, min_p: Tensor) -> Tensor:
    """Drop tokens less probable than *min_p* ``[rows]`` times the most probable one."""
    return weights.masked_fill(weights < min_p[:, None], 0.0)


def keep_top_k(weights: Tensor, scores: Tensor, top_k: list[int]) -> Tensor:
    """Drop all but the *top_k* best tokens of each row; ties with the last one stay.

    Args:
        weights: ``[rows, vocab]``.
        scores: The scores of `weights`. The filter compares these, because ``exp``
            makes different scores equal.
        top_k: One number for each row, in ``1..vocab``.
    """
    best = scores.topk(max(top_k), dim=-1).values
    last = send(top_k, scores.device) - 1
    return weights.masked_fill(scores < best.gather(1, last[:, None]), 0.0)


def keep_top_p(weights: Tensor, top_p: Tensor) -> Tensor:
    """Keep each row's smallest set of best tokens with *top_p* ``[rows]`` of the mass.

    A token stays if the better tokens have less than that together, so the best one
    always stays; ties with the last one stay, as in `keep_top_k`.
    """
    total = _fixed(weights).sum(-1)
    wanted = top_p.double() * total.double()
    vocab_size = weights.shape[-1]
    # Sorting a vocabulary takes longer than all the rest, and most sets are small. Only
    # the CPU may look whether this one was: on a device that would wait for it.
    if weights.device.type == "cpu" and vocab_size > _FEW:
        best = weights.topk(_FEW, dim=-1).values
        sums = _fixed(best).cumsum(-1)
        if bool((sums[:, -1].double() >= wanted).all()):
            return _cut(weights, best, sums, wanted)
    best = weights.sort(dim=-1, descending=True).values
    return _cut(weights, best, _fixed(best).cumsum(-1), wanted)


def _cut(weights: Tensor, best: Tensor, sums: Tensor, wanted: Tensor) -> Tensor:
    """Drop the tokens after the first of *best* whose sum reaches *wanted*."""
    before = (sums - _fixed(best)).double()
    last = (before < wanted[:, None]).sum(-1, keepdim=True) - 1
    # Only in a row of NaN does no sum reach it.
    return weights.masked_fill(weights < best.gather(1, last.clamp_(min=0)), 0.0)


def draw(weights: Tensor, clocks: Tensor) -> Tensor:
    """Draw one id for each row: the exponential clock that rings first.

    A clock runs at the weight of its token. Rounding changes the id only where the
    first two ring at the same time but for rounding; it would move every border of a
    sum over the vocabulary.

    Args:
        weights: ``[rows, vocab]``. Each row's largest is 1.
        clocks: ``[rows, vocab]``: those of `noise.exponential_clocks`; overwritten.

    Returns:
        ``[rows]``, int64; for a row with NaN, any id of the vocabulary.

    References:
        The draw is Gumbel-max, ``argmax(log weights - log times)``, without its
        logarithms; vLLM 0.32 draws so too (``random_sample``).
    """
    return clocks.div_(weights).argmax(-1)


def _fixed(weights: Tensor) -> Tensor:
    return (weights * _ONE).long()
