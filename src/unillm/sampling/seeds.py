# SPDX-License-Identifier: Apache-2.0

"""Keys of the random numbers of a draw, from the seed and the step alone, in integers.

References:
    SplitMix64: G. Steele, D. Lea, C. Flood, "Fast Splittable Pseudorandom Number
    Generators", OOPSLA 2014; constants of ``java.util.SplittableRandom``.
"""

from __future__ import annotations

_WORD = 2**64 - 1
_GOLDEN_GAMMA = 0x9E3779B97F4A7C15


def keys_of(seed: int, step: int) -> tuple[int, int]:
    """Return the two keys of a draw, signed integers of 32 bits.

    Args:
        seed: Any integer; its lowest 64 bits count.
        step: From 0.
    """
    # Seeds are often neighbours (`seed + i` with n > 1); their streams must not be.
    start = mix(seed & _WORD)
    word = mix((start + (step + 1) * _GOLDEN_GAMMA) & _WORD)
    return (word >> 32) - 2**31, (word & 0xFFFFFFFF) - 2**31


def number_of(token_id: int) -> int:
    """Return the random number of a token id, a signed integer of 32 bits."""
    return (mix(token_id) >> 32) - 2**31


def mix(word: int) -> int:
    """Return 64 bits that look random, another word for each word of 64 bits."""
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _WORD
    return word ^ (word >> 31)
