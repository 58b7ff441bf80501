# SPDX-License-Identifier: Apache-2.0

"""The key-value cache of all rows, and the steps that write to it and read it.

A model calls `update` in each layer with the keys and values of its tokens. The cache
has one *step* for all layers, set before the forward pass: it says which rows and
positions these tokens belong to, and what attention then sees. So the model's own code
stays as it is. Some layers keep a state instead (`recurrent.StateLayer`), or both.

Invariants:

- positions from a row's `written` mark on are zero;
- a row is cleared before its first use by a new owner. A mask over the values of an
  earlier owner is not enough: 0 · NaN is NaN.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import (
    Cache,
    CacheLayerMixin,
    LinearAttentionCacheLayerMixin,
)
from typing_extensions import override

from ..model.sizes import KvShape, round_up
from ..sampling.fetch import send
from .recurrent import StateLayer


class Step(abc.ABC):
    """The positions that one forward pass writes, and those that attention sees."""

    seen: int
    """Positions that attention reads of every row."""
    offset: int = 0
    """Positions before the first token, for a model that makes its own masks."""
    count: int | None = None
    """Leading rows that go on from their states; `None` where none does."""

    @abc.abstractmethod
    def exchange(self, stored: Tensor, new: Tensor) -> Tensor:
        """Write *new* ``[rows, kv_heads, tokens, dim]``; return what attention sees."""


class PromptStep(Step):
    """Fresh prompts into some rows: each sees itself alone.

    Args:
        rows: ``[prompts]``, int64.
        width: Tokens of each prompt, padding included.
    """

    def __init__(self, rows: Tensor, *, width: int) -> None:
        self.rows = rows
        self.seen = width

    @override
    def exchange(self, stored: Tensor, new: Tensor) -> Tensor:
        stored[:, :, : new.shape[2]].index_copy_(0, self.rows, new)
        return new


class ChunkStep(Step):
    """Tokens ``start..end`` of one row's prompt, which see the earlier ones too.

    Padding after them is not written.
    """

    def __init__(self, *, row: int, start: int, end: int, seen: int) -> None:
        self._row = row
        self._span = slice(start, end)
        self.seen = seen
        self.offset = start

    @override
    def exchange(self, stored: Tensor, new: Tensor) -> Tensor:
        count = self._span.stop - self._span.start
        stored[self._row, :, self._span] = new[0, :, :count]
        return stored[self._row : self._row + 1, :, : self.seen]


class ChunksStep(Step):
    """Tokens of several rows' prompts, which see the earlier ones of their row too.

    Args:
        rows: ``[rows]``, int64.
        positions: ``[rows, tokens]``, int64: where the tokens are written. Padding has
            the position of its row's last token, and repeats that token.
        seen: Positions that attention reads of every row; it reads a copy.
    """

    def __init__(self, rows: Tensor, positions: Tensor, *, seen: int) -> None:
        self._rows = rows
        self._positions = positions
        self.seen = seen

    @override
    def exchange(self, stored: Tensor, new: Tensor) -> Tensor:
        stored[self._rows[:, None], :, self._positions] = new.transpose(1, 2)
        return stored[:, :, : self.seen].index_select(0, self._rows)


class RaggedStep(Step):
    """Prompts of any lengths, one after the other in a single row of tokens.

    Args:
        rows: ``[tokens]``, int64: row of each token's prompt.
        positions: ``[tokens]``, int64: position of each token in its prompt.
        sources: ``[tokens]``, int64: the token whose keys and values are written there.
            A token writes its own; padding writes those of another token once more.
        by_spans: Whether attention reads the cache by spans (`flash`). Otherwise the
            prompts are fresh ones, and it reads the new tokens alone.
    """

    def __init__(
        self, rows: Tensor, positions: Tensor, sources: Tensor, *, by_spans: bool
    ) -> None:
        self._rows = rows
        self._positions = positions
        self._sources = sources
        self._by_spans = by_spans
        self.seen = rows.shape[0]

    @override
    def exchange(self, stored: Tensor, new: Tensor) -> Tensor:
        written = new[0, :, self._sources].transpose(0, 1)
        stored[self._rows, :, self._positions] = written
        return stored if self._by_spans else new


class DecodeStep(Step):
    """One token for each of the leading rows, at its own position.

    Args:
        cache: The cache that it is for.
        positions: ``[rows]``, int64: where the tokens are written.
        seen: Positions that attention reads of every row.
        by_spans: Whether attention finds the rows itself, by spans (`flash`).
    """

    def __init__(
        self,
        cache: SlotCache,
        positions: Tensor,
        *,
        seen: int,
        by_spans: bool = False,
    ) -> None:
        self._by_spans = by_spans
        self.seen = seen
        self.offset = seen - 1
        self.count = positions.shape[0]
        self._positions = positions
        self._rows = torch.arange(positions.shape[0], device=positions.device)
        self._kv_heads = cache.shape.kv_heads
        self._capacity = cache.capacity

    @override
    def exchange(self, stored: Tensor, new: Tensor) -> Tensor:
        rows, heads, _, dim = new.shape
        if torch.compiler.is_compiling():
            # The compiler writes in place to a tensor that is indexed as it is. Through
            # a view it copies the whole cache, and copies that back (torch 2.11).
            stored[self._rows, :, self._positions] = new[:, :, 0]
        else:
            stored.view(-1, dim).index_copy_(
                0, self._vectors, new.reshape(rows * heads, dim)
            )
        shown = stored if self._by_spans else stored[:rows]
        return shown[:, :, : self.seen]

    @cached_property
    def _vectors(self) -> Tensor:
        """Indices of the vectors in a cache as ``[rows · heads · positions, dim]``.

        Made once for all layers: a third of the cost of three index tensors in each.
        """
        rows = len(self._rows)
        numbers = torch.arange(rows * self._kv_heads, device=self._positions.device)
        starts = numbers.view(rows, self._kv_heads) * self._capacity
        return (starts + self._positions[:, None]).view(-1)


class SlotCache(Cache):
    """Keys and values ``[rows, kv_heads, capacity, dim]`` of every layer.

    Args:
        shape: Layers, heads and their sizes.
        num_rows: Number of rows.
        max_model_len: Positions of a row; `capacity` is that in whole blocks.
        dtype: Type of keys and values.
        device: The model's.
        one_row: transformers' cache layers of one row (`layers_of_one_row`); `None` if
            all layers attend and keep no state.
        argument: Argument of the model that the cache is passed as.
    """

    def __init__(
        self,
        shape: KvShape,
        *,
        num_rows: int,
        max_model_len: int,
        dtype: torch.dtype,
        device: torch.device,
        one_row: Sequence[Any] | None = None,
        argument: str = "past_key_values",
    ) -> None:
        self.shape = shape
        self.argument = argument
        self.capacity = round_up(max_model_len)
        self.step: Step | None = None
        self.device = device
        self.written = [0] * num_rows
        size = (num_rows, shape.kv_heads, self.capacity)
        self.tensors = [
            torch.zeros((*size, dim), dtype=dtype, device=device)
            for _ in range(shape.layers)
            for dim in (shape.head_dim, shape.value_dim)
        ]
        """Keys and values of the first layer, of the second, and so on."""
        free = iter(self.tensors)
        layers = [
            _make_layer(self, free, one, num_rows)
            for one in one_row or [None] * shape.layers
        ]
        self._recurrent = [each for each in layers if isinstance(each, StateLayer)]
        self.states = [tensor for each in self._recurrent for tensor in each.tensors]
        """The states of all layers, ``[rows, …]`` each."""
        super().__init__(layers=layers)

    @property
    def row_size(self) -> int:
        """Vectors of one row, over all heads."""
        return self.shape.kv_heads * self.capacity

    def begin(self, step: Step) -> None:
        """Set the step of the next forward pass."""
        self.step = step
        for layer in self._recurrent:
            layer.begin(step.count)

    def end(self) -> None:
        """Keep the states that a forward pass over prompts left."""
        if isinstance(self.step, PromptStep):
            for layer in self._recurrent:
                layer.end(self.step.rows)

    def note_written(self, row: int, end: int) -> None:
        """Record that positions below *end* of a row may have been written."""
        self.written[row] = max(self.written[row], end)

    def clear(self, rows: Sequence[int], *, start: int = 0) -> None:
        """Zero the keys and values that earlier owners left in *rows*, from *start* on.

        States stay as they are: a prompt replaces them whole.
        """
        end = max((self.written[row] for row in rows), default=0)
        if end > start:
            index = self._index(rows)
            for tensor in self.tensors:
                tensor[:, :, start:end].index_fill_(0, index, 0.0)
        for row in rows:
            self.written[row] = start

    def _index(self, rows: Sequence[int]) -> Tensor:
        return send(rows, self.device)

    def free(self) -> None:
        """Drop the tensors; the cache cannot be used any more."""
        self.layers.clear()
        self.tensors.clear()
        self.states.clear()
        self._recurrent.clear()
        self.step = None

    def copy(self, source: int, targets: Sequence[int], length: int) -> None:
        """Copy *length* positions of row *source* to *targets*; zero their rest.

        A row that is copied to itself keeps these positions.
        """
        others = [target for target in targets if target != source]
        index = self._index(others)
        for tensor in self.tensors:
            held = tensor[source, :, :length]
            if len(others) == 1:
                tensor[others[0], :, :length] = held
            elif others:
                tensor[index, :, :length] = held
        for state in self.states:
            state[list(targets)] = state[source].clone()
        self.clear(targets, start=length)

    def swap(self, ones: Sequence[int], others: Sequence[int]) -> None:
        """Exchange all that pairs of rows hold; no row is in two pairs."""
        sources, targets = [*ones, *others], [*others, *ones]
        end = max((self.written[row] for row in sources), default=0)
        index, order = self._index(targets), self._index(sources)
        for tensor in self.tensors:
            shown = tensor[:, :, :end]
            shown.index_copy_(0, index, shown.index_select(0, order))
        for state in self.states:
            state.index_copy_(0, index, state.index_select(0, order))
        for one, other in zip(ones, others, strict=True):
            written = self.written
            written[one], written[other] = written[other], written[one]


def _make_layer(
    cache: SlotCache, free: Iterator[Tensor], one_row: Any, num_rows: int
) -> Any:
    """Return a layer; one that attends takes the next two tensors of *free*."""
    attends = one_row is None or isinstance(one_row, CacheLayerMixin)
    recurs = isinstance(one_row, LinearAttentionCacheLayerMixin)
    if not attends:
        return StateLayer(one_row, num_rows=num_rows)
    if not recurs:
        return _SlotLayer(cache, next(free), next(free))
    return _HybridLayer(cache, next(free), next(free), one_row, num_rows)


class _SlotLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """One layer of a `SlotCache`; the cache's step says what `update` does."""

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
        step = self._step
        keys, values = self._stored
        return step.exchange(keys, key_states), step.exchange(values, value_states)

    @property
    def _step(self) -> Step:
        step = self._cache.step
        assert step is not None, "a forward pass without a step"
        return step

    @override
    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Do nothing: the cache allocates its memory when it is made."""

    # Models that make their own masks (`Family.own_attention`) call the next three. All
    # others are given positions and masks: rows have lengths of their own.

    @override
    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._step.seen, 0

    @override
    def get_seq_length(self) -> int:
        return self._step.offset

    @override
    def get_max_length(self) -> int:
        return self._cache.capacity


class _HybridLayer(StateLayer, _SlotLayer):  # type: ignore[override, no-untyped-call]
    """One layer that attends and keeps a state."""

    def __init__(
        self,
        cache: SlotCache,
        keys: Tensor,
        values: Tensor,
        one_row: Any,
        num_rows: int,
    ) -> None:
        _SlotLayer.__init__(self, cache, keys, values)
        StateLayer.__init__(self, one_row, num_rows=num_rows)
