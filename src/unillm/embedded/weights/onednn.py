# SPDX-License-Identifier: Apache-2.0

"""Linear layers with their weights packed for oneDNN, on a CPU.

`torch.nn.functional.linear` reads the weights as they are stored. oneDNN multiplies
faster by weights in the blocks that its kernels read, and packing them once costs about
as much as one product. A product with eight rows of float32 then takes 0.5 to 0.7 of
its time where the weights come from memory, prompts of 200 tokens 0.85 to 0.9 (AMD EPYC
with AVX-512, one thread). In bfloat16 it is 0.6, with the same bits.

Packed weights have no strides, so torch's compiler cannot handle them. This module
keeps them by number, and a layer is an operator of ours that takes the number.
"""

from __future__ import annotations

import itertools
import weakref
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D
from typing_extensions import override

FEWEST_WEIGHTS = 2**17
"""Smaller layers stay as they are: calling oneDNN takes 13 µs longer than MKL."""

_TYPICAL_ROWS = 8
"""oneDNN asks for a number of rows; the packed weights suit any."""

_packed: dict[int, Tensor] = {}
_numbers = itertools.count()

_library: Any = torch.library.Library("unillm", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define(
    "packed_linear(Tensor given, Tensor number, Tensor? bias, int width) -> Tensor"
)


def _packed_linear(
    given: Tensor, number: Tensor, bias: Tensor | None, width: int
) -> Tensor:
    del width
    weight = _packed[cast("int", number.item())]
    product: Tensor = torch.ops.mkldnn._linear_pointwise(  # noqa: SLF001 - its name
        given, weight, bias, "none", [], ""
    )
    return product


_library.impl("packed_linear", _packed_linear, "CPU")


def _shape(given: Tensor, number: Tensor, bias: Tensor | None, width: int) -> Tensor:
    del number, bias
    return given.new_empty(*given.shape[:-1], width)


torch.library.register_fake("unillm::packed_linear", _shape, lib=_library)


def pack_linears(model: nn.Module) -> int:
    """Replace the linear layers of a model on a CPU by packed ones; return how many.

    The memory stays the same: layers are replaced one by one, each frees its old
    weights, and weights that have another use stay as they are. No layer is packed if
    oneDNN has no kernels for its type here, as for float16 on many processors.
    """
    uses: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            uses[id(parameter)] = uses.get(id(parameter), 0) + 1
    count = 0
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if not _can_pack(layer) or uses[id(layer.weight)] > 1:
                continue
            try:
                packed = PackedLinear(layer)
            except RuntimeError:
                return count
            setattr(parent, name, packed)
            count += 1
    return count


def _can_pack(layer: nn.Module) -> bool:
    return (
        type(layer) in (nn.Linear, Conv1D)
        and cast("Tensor", layer.weight).numel() >= FEWEST_WEIGHTS
    )


class PackedLinear(nn.Module):
    """Computes the same as the layer that it was made from.

    Attributes:
        weight: Shape and type of the packed weights, without storage.
        bias: The layer's bias, unchanged.

    Raises:
        RuntimeError: oneDNN has no kernels for the type of the weights.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        weight = cast("Tensor", layer.weight).detach()
        if isinstance(layer, Conv1D):
            weight = weight.t().contiguous()
        number = next(_numbers)
        _packed[number] = torch.ops.mkldnn._reorder_linear_weight(  # noqa: SLF001
            weight, _TYPICAL_ROWS
        )
        weakref.finalize(self, _packed.pop, number)
        self.weight = nn.Parameter(weight.to("meta"), requires_grad=False)
        self.bias = layer.bias
        # A tensor, because the compiler would make a number a constant, and its cache
        # would then miss for every model that is loaded again.
        self.register_buffer("number", torch.tensor(number), persistent=False)

    @override
    def forward(self, given: Tensor) -> Tensor:
        product: Tensor = torch.ops.unillm.packed_linear(
            given, self.number, self.bias, self.weight.shape[0]
        )
        return product
