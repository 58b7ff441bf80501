# SPDX-License-Identifier: Apache-2.0

"""Uniform numbers from a seed and a step: no state, so nothing to keep, copy or lose.

A request that is prefilled again in another slot goes on with the same numbers, because
they follow from how many tokens it has, not from what was drawn before.

References:
    SplitMix64: G. Steele, D. Lea, C. Flood, "Fast Splittable Pseudorandom Number
    Generators", OOPSLA 2014; constants of ``java.util.SplittableRandom``.
"""

from __future__ import annotations

_WORD = 2**64 - 1
_GOLDEN_GAMMA = 0x9E3779B97F4A7C15


def uniform(seed: int, step: int) -> float:
    """Return the number in [0, 1) of *step* in the stream of *seed*.

    Args:
        seed: Any integer; its lowest 64 bits count.
        step: From 0.
    """
    # Mixed first: seeds that users choose are neighbours (`seed + i` with n > 1), and
    # their streams should not be neighbours too.
    start = _mix(seed & _WORD)
    word = _mix((start + (step + 1) * _GOLDEN_GAMMA) & _WORD)
    return (word >> 11) * 2.0**-53


def _mix(word: int) -> int:
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _WORD
    return word ^ (word >> 31)
