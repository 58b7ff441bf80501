# SPDX-License-Identifier: Apache-2.0

"""`uniform`: stateless uniform numbers from a seed and a step.

A request that is prefilled again in another slot continues with the same numbers,
because they follow from its number of new tokens and not from earlier draws.

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
    # Seeds are often neighbours (`seed + i` with n > 1); their streams must not be.
    start = _mix(seed & _WORD)
    word = _mix((start + (step + 1) * _GOLDEN_GAMMA) & _WORD)
    return (word >> 11) * 2.0**-53


def _mix(word: int) -> int:
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _WORD
    return word ^ (word >> 31)
