# SPDX-License-Identifier: Apache-2.0

"""The key-value cache of all rows, and what the next forward pass does with it.

A model calls `update` in each layer with the keys and values of the tokens that it is
given. Which rows and positions these belong to, and what attention then sees, is said
by the cache's *step*, one object for all layers, set before the forward pass. So the
model's own code stays as it is.

Layers that keep a state instead are `states.StateLayer`; some do both.

Invariants:

- positions from a row's `written` mark on are zero;
- a row is cleared before its first use by a new owner. Hiding what an earlier owner
  left behind a mask is not enough: 0 · NaN is NaN.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin
from typing_extensions import override

from ..model.sizes import KvShape, round_up
from .states import LayerLayout, StateLayer


class Step(Protocol):
    """Where one forward pass writes, and what it sees."""

    seen: int
    """Positions that attention reads of every row."""
    offset: int
    """Those before the first token, for a model that makes its own masks."""
    count: int | None
    """Leading rows that go on from their states; `None` where none does."""

    def exchange(self, stored: Tensor, new: Tensor) -> Tensor:
        """Write *new* ``[rows, kv_heads, tokens, dim]``; return what attention sees."""


class PromptStep:
    """Fresh prompts into some rows: they see themselves alone.

    Args:
        rows: ``[prompts]``, int64.
        width: Tokens of each, padding among them.
    """

    offset = 0
    count: int | None = None

    def __init__(self, rows: Tensor, *, width: int) -> None:
        self.rows = rows
        self.seen = width

    def exchange(self, stored: Tensor, new: Tensor) -> Tensor:
        """Write from position 0 on; attention sees the new tokens."""
        stored[:, :, : new.shape[2]].index_copy_(0, self.rows, new)
        return new


class ChunkStep:
    """Tokens ``start..end`` of one row's prompt, which see its earlier ones too."""

    count: int | None = None

    def __init__(self, *, row: int, start: int, end: int, seen: int) -> None:
        self._row = row
        self._span = slice(start, end)
        self.seen = seen
        self.offset = start

    def exchange(self, stored: Tensor, new: Tensor) -> Tensor:
        """Write the span; attention sees *seen* positions, under a mask."""
        stored[self._row, :, self._span] = new[0]
        return stored[self._row : self._row + 1, :, : self.seen]


class PackedStep:
    """Fresh prompts one after the other in a single row of tokens.

    Args:
        rows: ``[tokens]``, int64: of each token's prompt.
        positions: ``[tokens]``, int64: in its prompt.
        sources: ``[tokens]``, int64: whose keys and values are written there: a token's
            own, but for padding, which writes again what another one does.
    """

    offset = 0
    count: int | None = None

    def __init__(self, rows: Tensor, positions: Tensor, sources: Tensor) -> None:
        self._rows = rows
        self._positions = positions
        self._sources = sources
        self.seen = rows.shape[0]

    def exchange(self, stored: Tensor, new: Tensor) -> Tensor:
        """Write each token to its place; attention sees the new tokens."""
        written = new[0, :, self._sources].transpose(0, 1)
        stored[self._rows, :, self._positions] = written
        return new


class DecodeStep:
    """One token for each of the leading rows, at its own position.

    Args:
        positions: ``[rows]``, int64.
        seen: Positions that attention reads of every row.
        kv_heads: Of the cache.
        capacity: Positions of a row of the cache.
    """

    def __init__(
        self, positions: Tensor, *, seen: int, kv_heads: int, capacity: int
    ) -> None:
        self.seen = seen
        self.offset = seen - 1
        self.count: int | None = positions.shape[0]
        self._positions = positions
        self._rows = torch.arange(positions.shape[0], device=positions.device)
        self._kv_heads = kv_heads
        self._capacity = capacity

    def exchange(self, stored: Tensor, new: Tensor) -> Tensor:
        """Write one vector a row and head; attention sees views of the leading rows."""
        rows, heads, _, dim = new.shape
        if torch.compiler.is_compiling():
            # A compiler writes in place what is indexed as it is given. Through a view
            # it makes a copy of the whole cache, and copies that back (torch 2.11).
            stored[self._rows, :, self._positions] = new[:, :, 0]
        else:
            stored.view(-1, dim).index_copy_(
                0, self._places, new.reshape(rows * heads, dim)
            )
        return stored[:rows, :, : self.seen]

    @cached_property
    def _places(self) -> Tensor:
        """Numbers of the vectors in a cache seen as ``[rows · heads · places, dim]``.

        For all layers at once: a third of the cost of three index tensors in each.
        """
        rows = len(self._rows)
        numbers = torch.arange(rows * self._kv_heads, device=self._positions.device)
        starts = numbers.view(rows, self._kv_heads) * self._capacity
        return (starts + self._positions[:, None]).view(-1)


class SlotCache(Cache):
    """Keys and values ``[rows, kv_heads, capacity, dim]`` of every layer.

    Args:
        shape: Of the model.
        num_rows: Rows.
        max_model_len: Positions of a row; `capacity` is that in whole blocks.
        dtype: Of the model's keys and values.
        device: Of the model.
        layouts: Of every layer; `None` if all of them attend and nothing else.
    """

    def __init__(
        self,
        shape: KvShape,
        *,
        num_rows: int,
        max_model_len: int,
        dtype: torch.dtype,
        device: torch.device,
        layouts: Sequence[LayerLayout] | None = None,
    ) -> None:
        self.shape = shape
        self.capacity = round_up(max_model_len)
        self.step: Step | None = None
        self.written = [0] * num_rows
        size = (num_rows, shape.kv_heads, self.capacity)
        self.tensors = [
            torch.zeros((*size, dim), dtype=dtype, device=device)
            for _ in range(shape.layers)
            for dim in (shape.head_dim, shape.value_dim)
        ]
        """Keys and values of the first layer, of the second, and so on."""
        if layouts is None:
            layouts = [LayerLayout(attends=True, recurs=False)] * shape.layers
        free = iter(self.tensors)
        layers = [_make_layer(self, free, layout, num_rows) for layout in layouts]
        self._recurrent = [each for each in layers if isinstance(each, StateLayer)]
        super().__init__(layers=layers)

    @property
    def is_recurrent(self) -> bool:
        """Whether there are states: prompts then come alone, whole and unpadded."""
        return bool(self._recurrent)

    @property
    def states(self) -> list[Tensor]:
        """Those of all layers, ``[rows, …]`` each."""
        return [tensor for layer in self._recurrent for tensor in layer.tensors]

    def begin(self, step: Step) -> None:
        """Say what the next forward pass does."""
        self.step = step
        for layer in self._recurrent:
            layer.begin(step.count)

    def end(self) -> None:
        """Keep the states that a forward pass left."""
        if isinstance(self.step, PromptStep):
            for layer in self._recurrent:
                layer.end(self.step.rows)

    def note_written(self, row: int, end: int) -> None:
        """Say that positions below *end* of a row may have been written."""
        self.written[row] = max(self.written[row], end)

    def clear(self, rows: list[int]) -> None:
        """Zero whatever earlier owners left in *rows*.

        States are left as they are: a prompt replaces them whole.
        """
        end = max((self.written[row] for row in rows), default=0)
        if not end or not self.tensors:
            return
        index = torch.tensor(rows).to(self.tensors[0].device, non_blocking=True)
        for tensor in self.tensors:
            tensor[:, :, :end].index_fill_(0, index, 0.0)
        for row in rows:
            self.written[row] = 0

    def free(self) -> None:
        """Let go of the memory; the cache cannot be used any more."""
        self.layers.clear()
        self.tensors.clear()
        self._recurrent.clear()
        self.step = None

    def move(self, source: int, target: int, length: int) -> None:
        """Make row *target* what row *source* is: *length* positions, then zeros."""
        end = max(self.written[target], length)
        for tensor in self.tensors:
            tensor[target, :, :length] = tensor[source, :, :length]
            tensor[target, :, length:end] = 0.0
        for state in self.states:
            state[target] = state[source]
        self.written[target] = length


def _make_layer(
    cache: SlotCache, free: Iterator[Tensor], layout: LayerLayout, num_rows: int
) -> Any:
    """Make a layer; one that attends takes the next two tensors of *free*."""
    if not layout.attends:
        return StateLayer(layout, num_rows=num_rows)
    keys, values = next(free), next(free)
    if not layout.recurs:
        return _SlotLayer(cache, keys, values)
    return _HybridLayer(cache, keys, values, layout, num_rows=num_rows)


class _SlotLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """One layer of a `SlotCache`; does what the cache's step says."""

    is_sliding = False

    def __init__(self, cache: SlotCache, keys: Tensor, values: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._cache = cache
        self._stored = keys, values
        self.is_initialized = True

    @override
    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        step = self._cache.step
        assert step is not None, "a forward pass without a step"
        keys, values = self._stored
        return step.exchange(keys, key_states), step.exchange(values, value_states)

    @override
    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Do nothing: all memory is taken when the cache is made."""

    # Asked by models that make their own masks (`families.OWN_ATTENTION`). All others
    # are given positions and masks: rows have lengths of their own.

    @override
    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        del query_length
        assert self._cache.step is not None, "a forward pass without a step"
        return self._cache.step.seen, 0

    @override
    def get_seq_length(self) -> int:
        assert self._cache.step is not None, "a forward pass without a step"
        return self._cache.step.offset

    @override
    def get_max_length(self) -> int:
        return self._cache.capacity


class _HybridLayer(StateLayer, _SlotLayer):  # type: ignore[override, no-untyped-call]
    """One layer that does both."""

    def __init__(
        self,
        cache: SlotCache,
        keys: Tensor,
        values: Tensor,
        layout: LayerLayout,
        *,
        num_rows: int,
    ) -> None:
        _SlotLayer.__init__(self, cache, keys, values)
        StateLayer.__init__(self, layout, num_rows=num_rows)
