# SPDX-License-Identifier: Apache-2.0

"""Recurrent layers: they keep a state of each row instead of keys and values.

State-space layers, linear attention and short convolutions read no earlier position:
their state of a row has one size, whatever the row's length. So a prompt goes through
them alone, without padding and in one piece, into buffers that transformers makes, and
these are then copied into its row. A decode step works on the rows in place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import (
    CacheLayerMixin,
    LinearAttentionCacheLayerMixin,
    LinearAttentionLayer,
)

from .families import family_of

Buffers = Mapping[int, Tensor]
"""A layer's states by the numbers that transformers gives them."""


@attrs.frozen(kw_only=True)
class LayerLayout:
    """The contents of one row in one layer."""

    attends: bool
    """Whether it holds keys and values."""
    recurs: bool
    """Whether it holds a state; the state is empty in a layer that only computes."""
    convolution: Buffers = attrs.field(factory=dict)
    """The last inputs of a convolution, ``[1, …]``."""
    recurrence: Buffers = attrs.field(factory=dict)
    """The memory of all inputs, ``[1, …]``."""


def layouts_of(model: Any) -> Sequence[LayerLayout] | None:
    """Return the layout of each layer of a recurrent model, by computing one token.

    Returns:
        `None` for a model whose layers all attend and keep no state.
    """
    config = model.config.get_text_config(decoder=True)
    family = family_of(config)
    if not family.recurrent:
        return None
    cache = DynamicCache(config=config)
    with torch.inference_mode():
        ids = torch.zeros(1, 1, dtype=torch.int64, device=model.device)
        model(input_ids=ids, use_cache=True, **{family.cache_argument: cache})
    return [_layout_of(layer) for layer in cache.layers]


def _layout_of(layer: Any) -> LayerLayout:
    recurs = isinstance(layer, LinearAttentionCacheLayerMixin)
    return LayerLayout(
        attends=isinstance(layer, CacheLayerMixin),
        recurs=recurs,
        convolution=_filled(layer.conv_states) if recurs else {},
        recurrence=_filled(layer.recurrent_states) if recurs else {},
    )


def _filled(buffers: Mapping[int, Tensor | None]) -> dict[int, Tensor]:
    return {index: each for index, each in buffers.items() if each is not None}


class StateLayer(LinearAttentionLayer):
    """The states of one layer for all rows.

    transformers' own layer does the arithmetic. Between `begin` and `end` its buffers
    are those of the rows that the forward pass computes.
    """

    def __init__(self, layout: LayerLayout, *, num_rows: int) -> None:
        super().__init__(number_of_states=max(1, len(layout.convolution)))
        self._convolution = _rows_of(layout.convolution, num_rows)
        self._recurrence = _rows_of(layout.recurrence, num_rows)
        self.tensors = [*self._convolution.values(), *self._recurrence.values()]
        """All states, ``[rows, …]`` each."""

    def begin(self, count: int | None) -> None:
        """Prepare for a pass over the leading *count* rows; `None` for new prompts."""
        for index in range(self.number_of_states):
            continues = count is not None
            self.has_previous_state[index] = continues
            self.is_conv_states_initialized[index] = continues
            self.is_recurrent_states_initialized[index] = continues
        if count is not None:
            self.conv_states |= {i: t[:count] for i, t in self._convolution.items()}
            self.recurrent_states |= {i: t[:count] for i, t in self._recurrence.items()}

    def end(self, rows: Tensor) -> None:
        """Keep the states that new prompts left, in *rows* ``[prompts]``, int64."""
        for kept, left in (
            (self._convolution, self.conv_states),
            (self._recurrence, self.recurrent_states),
        ):
            for index, tensor in kept.items():
                new = left[index]
                assert new is not None, "a prompt left no state"
                tensor.index_copy_(0, rows, new)


def _rows_of(buffers: Buffers, num_rows: int) -> dict[int, Tensor]:
    return {
        index: torch.zeros(
            (num_rows, *one.shape[1:]), dtype=one.dtype, device=one.device
        )
        for index, one in buffers.items()
    }
