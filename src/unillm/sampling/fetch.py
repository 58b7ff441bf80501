# SPDX-License-Identifier: Apache-2.0

"""Several small tensors to the host in one transfer, so that a step waits only once."""

from __future__ import annotations

import torch
from torch import Tensor


class Fetch:
    """Collects tensors of ``[rows, columns]`` and brings them over together.

    They travel as float64, which holds every float32 and every token id exactly.
    """

    def __init__(self) -> None:
        self._parts: list[Tensor] = []

    def add(self, tensor: Tensor) -> int:
        """Take ``[rows, columns]`` along; return its place in what `run` returns."""
        self._parts.append(tensor)
        return len(self._parts) - 1

    def run(self) -> list[list[list[float]]]:
        """Wait for the device, once, and return each part as rows of numbers."""
        flat = torch.cat([part.reshape(-1).double() for part in self._parts]).cpu()
        sizes = [part.numel() for part in self._parts]
        return [
            values.reshape(part.shape).tolist()
            for values, part in zip(torch.split(flat, sizes), self._parts, strict=True)
        ]
