# SPDX-License-Identifier: Apache-2.0

"""A model and its cache without their numbers, for a process that compiles them.

Each tensor is replaced by its shape, and read as memory that nothing has written to,
which takes no room. Tensors keep their order, so that both processes know them by
number.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override


def dump(value: Any) -> tuple[bytes, list[Tensor]]:
    """Return *value* without the numbers of its tensors, and these tensors.

    Raises:
        Exception: Whatever Python cannot pickle, such as a class of a function.
    """
    file = io.BytesIO()
    writer = _Writer(file, protocol=pickle.HIGHEST_PROTOCOL)
    writer.dump(value)
    return file.getvalue(), writer.tensors


def load(blueprint: bytes) -> tuple[Any, list[Tensor]]:
    """Return what was dumped, and its tensors in the same order."""
    reader = _Reader(io.BytesIO(blueprint))
    value = reader.load()
    return value, list(reader.tensors.values())


class _Writer(pickle.Pickler):
    def __init__(self, file: io.BytesIO, *, protocol: int) -> None:
        super().__init__(file, protocol=protocol)
        self.tensors: list[Tensor] = []
        self._numbers: dict[int, int] = {}

    @override
    def persistent_id(self, obj: Any) -> Any:
        if not isinstance(obj, Tensor):
            return None
        number = self._numbers.get(id(obj))
        if number is None:
            number = self._numbers[id(obj)] = len(self.tensors)
            self.tensors.append(obj)
        is_parameter = isinstance(obj, nn.Parameter)
        layout = (tuple(obj.shape), obj.stride(), obj.dtype, obj.device)
        return number, is_parameter, layout


class _Reader(pickle.Unpickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.tensors: dict[int, Tensor] = {}

    @override
    def persistent_load(self, pid: Any) -> Tensor:
        number, is_parameter, (shape, stride, dtype, device) = pid
        if number not in self.tensors:
            empty = torch.empty_strided(shape, stride, dtype=dtype, device=device)
            if is_parameter:
                empty = nn.Parameter(empty, requires_grad=False)
            self.tensors[number] = empty
        return self.tensors[number]
