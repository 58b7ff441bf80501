# SPDX-License-Identifier: Apache-2.0

"""Linear layers with the same input, fused into one matrix product.

A layer's queries, keys and values are products with the same input, and so are the two
halves of a gated MLP. One product with the weights side by side reads the same bytes at
once, which is faster in a decode step of few rows. The model's code stays as it is: a
layer that returns its share of the product replaces each layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override

GROUPS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Names of layers with a common input in most families."""


def fuse_projections(model: nn.Module) -> int:
    """Replace the groups of linear layers in a model, and return their number.

    The memory stays the same: groups are replaced one by one, and each frees its old
    weights. Layers that are not plain `torch.nn.Linear` (adapters, quantised weights),
    or that have hooks, are left alone.
    """
    fused = 0
    for parent in list(model.modules()):
        for names in GROUPS:
            layers = [getattr(parent, name, None) for name in names]
            plain = [layer for layer in layers if type(layer) is nn.Linear]
            if len(plain) == len(names) and _can_fuse(plain):
                shared = _Shared(plain)
                for index, name in enumerate(names):
                    setattr(parent, name, _Share(shared, index))
                fused += 1
    return fused


def _can_fuse(layers: Sequence[nn.Linear]) -> bool:
    first = layers[0]
    return len({id(layer.weight) for layer in layers}) == len(layers) and all(
        layer.in_features == first.in_features
        and layer.weight.dtype == first.weight.dtype
        and layer.weight.device == first.weight.device
        and (layer.bias is None) == (first.bias is None)
        and not layer._forward_hooks  # noqa: SLF001
        and not layer._forward_pre_hooks  # noqa: SLF001
        for layer in layers
    )


class _Shared(nn.Module):
    """The product of a group, until each of its layers has taken its share."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.sizes = [layer.out_features for layer in layers]
        self.product = _side_by_side(layers)
        self._input: Tensor | None = None
        self._shares: dict[int, Tensor] = {}

    def take(self, index: int, given: Tensor) -> Tensor:
        """Return a layer's share of the product with *given*."""
        if self._input is not given:
            shares = torch.split(self.product(given), self.sizes, dim=-1)
            self._shares = dict(enumerate(shares))
            self._input = given
        share = self._shares.pop(index)
        if not self._shares:
            self._input = None
        return share


class _Share(nn.Module):
    """Replaces one linear layer of a group."""

    def __init__(self, shared: _Shared, index: int) -> None:
        super().__init__()
        self.shared = shared
        self._index = index

    @override
    def forward(self, given: Tensor) -> Tensor:
        return self.shared.take(self._index, given)

    @property
    def weight(self) -> Tensor:
        """The layer's own rows of the weights side by side."""
        weight = self.shared.product.weight
        return torch.split(weight, self.shared.sizes)[self._index]


def _side_by_side(layers: Sequence[nn.Linear]) -> nn.Linear:
    """Return a layer whose outputs are those of *layers*, one after the other."""
    biased = layers[0].bias is not None
    product = nn.Linear(
        layers[0].in_features,
        sum(layer.out_features for layer in layers),
        bias=biased,
        device="meta",
    )
    for name in ("weight", "bias") if biased else ("weight",):
        with torch.no_grad():
            parts = torch.cat([getattr(layer, name) for layer in layers])
        setattr(product, name, nn.Parameter(parts, requires_grad=False))
    return product
