# SPDX-License-Identifier: Apache-2.0

"""Small tensors to the device and back, without a wait in between.

Memory of the host that is not pinned would make a copy wait for what the device does.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def send(
    values: Sequence[object], device: torch.device, dtype: torch.dtype = torch.int64
) -> Tensor:
    """Copy host numbers to the device without waiting for it."""
    pinned = device.type == "cuda"
    tensor = torch.tensor(values, dtype=dtype, pin_memory=pinned)
    return tensor.to(device, non_blocking=True)


class Fetch:
    """Collects ``[rows, columns]`` tensors and copies them to the host together.

    They travel as float64, which holds every float32 and every token id exactly.
    """

    def __init__(self) -> None:
        self._parts: list[Tensor] = []
        self._copied: Tensor
        self._is_done: torch.cuda.Event | None = None

    def add(self, tensor: Tensor) -> int:
        """Add a tensor; return its index in the result of `read`."""
        self._parts.append(tensor)
        return len(self._parts) - 1

    def start(self) -> None:
        """Copy all tensors after the work that the device has so far."""
        parts = [part.reshape(-1).double() for part in self._parts]
        flat = parts[0] if len(parts) == 1 else torch.cat(parts)
        on_gpu = flat.device.type == "cuda"
        self._copied = flat.to("cpu", non_blocking=on_gpu)
        if on_gpu:
            self._is_done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._is_done.record()

    def read(self) -> list[list[list[float]]]:
        """Wait for the copy, and return each tensor as rows of numbers."""
        if self._is_done is not None:
            self._is_done.synchronize()
        sizes = [part.numel() for part in self._parts]
        return [
            values.reshape(part.shape).tolist()
            for values, part in zip(
                torch.split(self._copied, sizes), self._parts, strict=True
            )
        ]
