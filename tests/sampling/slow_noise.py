# SPDX-License-Identifier: Apache-2.0

"""The numbers of a draw in plain Python, one at a time."""

from __future__ import annotations

import math

from unillm.sampling.seeds import keys_of, mix

WORD = 2**32 - 1


def ring_time(seed: int, step: int, token_id: int) -> float:
    """Return the time of a token's clock in the draw of a seed and a step."""
    first, second = (key & WORD for key in keys_of(seed, step))
    bits = ((mix(token_id) >> 32) ^ first ^ 2**31) * 0x7FEB352D & WORD
    bits = ((bits ^ (bits >> 16)) + second) & WORD
    bits = (bits * 0x846CA68B) & 0x7FFFFFFF
    bits ^= bits >> 15
    return -math.log1p(-(bits + 0.5) * 2.0**-31 * (1 - 2.0**-23))
