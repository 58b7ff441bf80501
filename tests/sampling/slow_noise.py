# SPDX-License-Identifier: Apache-2.0

"""The numbers of a draw in plain Python, one at a time."""

from __future__ import annotations

import math

from unillm.sampling.noise import keys_of

WORD = 2**32 - 1


def exponential(seed: int, step: int, token_id: int) -> float:
    """Return the number of a token in the draw of a seed and a step."""
    first, second = (key & WORD for key in keys_of(seed, step))
    bits = ((token_id * 0x9E3779B9 - 2**31) & WORD) ^ first
    bits = ((bits ^ (bits >> 16)) * 0x7FEB352D) & WORD
    bits = ((bits ^ (bits >> 15)) + second) & WORD
    bits = (bits * 0x846CA68B) & WORD
    bits = (bits ^ (bits >> 16)) & 0x7FFFFFFF
    return -math.log1p(-min((bits + 0.5) * 2.0**-31, 1 - 2.0**-24))
