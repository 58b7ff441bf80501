# SPDX-License-Identifier: Apache-2.0

"""Layers that keep a state of each row instead of its keys and values.

State-space layers, linear attention and short convolutions read no earlier position:
what they remember of a row has one size, whatever its length. So a prompt goes through
them alone, without padding and in one piece, into the buffers that transformers makes
for it, and these are then copied into its row. A decode step works on the rows in
place.
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

from . import families

Buffers = Mapping[int, Tensor]
"""By transformers' number of the state; a layer may have several."""


@attrs.frozen(kw_only=True)
class LayerLayout:
    """What a layer keeps of one row."""

    attends: bool
    """Keys and values."""
    recurs: bool
    """A state; it may be empty, in a layer that only computes."""
    convolution: Buffers = attrs.field(factory=dict)
    """The last inputs of a convolution, ``[1, …]``."""
    recurrence: Buffers = attrs.field(factory=dict)
    """What is remembered of all inputs, ``[1, …]``."""


def layouts_of(model: Any) -> Sequence[LayerLayout] | None:
    """Find out what the layers of a recurrent model keep, by computing one token.

    Returns:
        One for each layer; `None` for a model whose layers all attend and nothing else.
    """
    config = model.config.get_text_config(decoder=True)
    if config.model_type not in families.RECURRENT:
        return None
    cache = DynamicCache(config=config)
    with torch.inference_mode():
        ids = torch.zeros(1, 1, dtype=torch.int64, device=model.device)
        model(input_ids=ids, use_cache=True, **{cache_argument(model): cache})
    return [_layout_of(layer) for layer in cache.layers]


def cache_argument(model: Any) -> str:
    """Return the name under which a model takes its cache."""
    config = model.config.get_text_config(decoder=True)
    return families.CACHE_ARGUMENTS.get(config.model_type, "past_key_values")


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

    transformers' own layer does the arithmetic; between `begin` and `end` its buffers
    are those of the rows that the forward pass computes.

    Args:
        layout: Of the layer.
        num_rows: Rows.
    """

    def __init__(self, layout: LayerLayout, *, num_rows: int) -> None:
        super().__init__(number_of_states=max(1, len(layout.convolution)))
        self._convolution = _rows_of(layout.convolution, num_rows)
        self._recurrence = _rows_of(layout.recurrence, num_rows)

    @property
    def tensors(self) -> list[Tensor]:
        """Everything that is kept, ``[rows, …]`` each."""
        return [*self._convolution.values(), *self._recurrence.values()]

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
        """Keep what a pass over new prompts left, in *rows* ``[prompts]``, int64."""
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
