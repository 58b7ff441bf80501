# SPDX-License-Identifier: Apache-2.0

"""`Fetch`: one transfer of several small tensors, so that a step waits only once."""

from __future__ import annotations

import torch
from torch import Tensor


class Fetch:
    """Collects ``[rows, columns]`` tensors and copies them to the host together.

    They travel as float64, which holds every float32 and every token id exactly.
    """

    def __init__(self) -> None:
        self._parts: list[Tensor] = []

    def add(self, tensor: Tensor) -> int:
        """Add a tensor; return its index in the result of `run`."""
        self._parts.append(tensor)
        return len(self._parts) - 1

    def run(self) -> list[list[list[float]]]:
        """Wait for the device once, and return each tensor as rows of numbers."""
        flat = torch.cat([part.reshape(-1).double() for part in self._parts]).cpu()
        sizes = [part.numel() for part in self._parts]
        return [
            values.reshape(part.shape).tolist()
            for values, part in zip(torch.split(flat, sizes), self._parts, strict=True)
        ]
