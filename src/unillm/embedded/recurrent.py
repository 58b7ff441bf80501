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

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import LinearAttentionLayer

from .families import family_of


def layers_of_one_row(model: Any) -> Sequence[Any] | None:
    """Compute one token of a recurrent model; return the layers of transformers' cache.

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
    return list(cache.layers)


class StateLayer(LinearAttentionLayer):
    """The states of one layer for all rows.

    transformers' own layer does the arithmetic. Between `begin` and `end` its buffers
    are those of the rows that the forward pass computes.

    Args:
        one_row: transformers' layer with the states of one row; it may have none.
        num_rows: Number of rows.
    """

    def __init__(self, one_row: Any, *, num_rows: int) -> None:
        super().__init__(number_of_states=one_row.number_of_states)
        self._convolution = _rows_of(one_row.conv_states, num_rows)
        self._recurrence = _rows_of(one_row.recurrent_states, num_rows)
        self.tensors = [*self._convolution.values(), *self._recurrence.values()]
        """All states, ``[rows, …]`` each."""

    def begin(self, count: int | None) -> None:
        """Prepare for a pass over the leading *count* rows; `None` for new prompts."""
        continues = count is not None
        for index in range(self.number_of_states):
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


def _rows_of(states: Mapping[int, Tensor | None], num_rows: int) -> dict[int, Tensor]:
    """Return zeros for all rows, by transformers' number of the state."""
    return {
        index: one.new_zeros((num_rows, *one.shape[1:]))
        for index, one in states.items()
        if one is not None
    }
