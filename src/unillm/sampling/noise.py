# SPDX-License-Identifier: Apache-2.0

"""Random numbers of a draw: one for each token, from the seed and the step alone.

A request that is prefilled again in another slot continues with the same numbers,
because they follow from its number of new tokens and not from earlier draws. They are
integers up to the last operation, so that they are the same on every device.

References:
    The 32-bit mix: C. Wellons, "Prospecting for Hash Functions", 2018, ``lowbias32``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .seeds import number_of

# Factors of `lowbias32`, the second as a signed integer of 32 bits.
_FACTOR_1 = 0x7FEB352D
_FACTOR_2 = 0x846CA68B - 2**32

_SCALE = 2.0**-31 * (1 - 2.0**-23)
"""Takes 31 bits into [0, 1), also where they are rounded to float32."""


def spread(vocab_size: int, device: torch.device) -> Tensor:
    """Return ``[vocab]``, int32: a random number for each token id."""
    numbers = [number_of(token_id) for token_id in range(vocab_size)]
    return torch.tensor(numbers, dtype=torch.int32, device=device)


def exponential_clocks(keys: Tensor, numbers: Tensor) -> Tensor:
    """Return ``[rows, vocab]``, float32: minus the times at which clocks ring.

    The times are independent and exponentially distributed.

    Args:
        keys: ``[rows, 2]``, int32: those of `seeds.keys_of`.
        numbers: ``[vocab]``: those of `spread`.
    """
    bits = numbers ^ keys[:, :1]
    # Products wrap. A shift to the right repeats the sign, which the mask drops.
    bits *= _FACTOR_1
    bits ^= (bits >> 16) & 0xFFFF
    bits += keys[:, 1:]
    bits *= _FACTOR_2
    bits &= 0x7FFFFFFF
    bits ^= bits >> 15
    # Minus a uniform number in (0, 1), which is fine near 0: the smallest ones decide.
    offset = torch.full((), -_SCALE / 2, device=keys.device)
    return torch.add(offset, bits, alpha=-_SCALE).log1p_()
