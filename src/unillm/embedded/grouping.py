# SPDX-License-Identifier: Apache-2.0

"""Groups of fresh prompts that share a forward pass, from their lengths alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

_Member = TypeVar("_Member")

WIDTH_STEP = 4
"""Widths are multiples of it, so that few different shapes occur.

oneDNN prepares kernels for each number of tokens when it first meets it, which took 3
to 4 ms for a 10M Llama; a position of padding takes 0.1 ms, every time.
"""

SHORT = 16
"""So many positions of padding cost less than another forward pass."""


def width_for(length: int, limit: int) -> int:
    """Return the width that a prompt of *length* is padded to, at most *limit*."""
    return min(-(-length // WIDTH_STEP) * WIDTH_STEP, limit)


def padded(values: Sequence[int], width: int, filler: int) -> list[int]:
    """Return *values*, followed by *filler* up to *width* of them."""
    return [*values, *[filler] * (width - len(values))]


def group_by_width(lengths: Sequence[int]) -> list[list[int]]:
    """Group prompts of similar length, longest first.

    A prompt joins those before it while it needs at most a quarter of their width, or
    `SHORT` positions, as padding.

    Returns:
        Indices into *lengths*; each group's first is its longest.
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        longest = lengths[groups[-1][0]] if groups else 0
        if longest - lengths[index] <= max(SHORT, longest // 4) and groups:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def in_parts(group: Sequence[_Member], size: int) -> list[list[_Member]]:
    """Cut a group into parts of at most *size*, and at least one, members."""
    size = max(size, 1)
    return [list(group[at : at + size]) for at in range(0, len(group), size)]


def group_by_length(lengths: Sequence[int]) -> list[list[int]]:
    """Group prompts of the same length, longest first, as indices into *lengths*."""
    groups: dict[int, list[int]] = {}
    for index, length in enumerate(lengths):
        groups.setdefault(length, []).append(index)
    return [groups[length] for length in sorted(groups, reverse=True)]
