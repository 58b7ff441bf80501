# SPDX-License-Identifier: Apache-2.0

"""Masks: which positions a token may see, for all layers or for each kind of layer.

A model outside transformers' attention interface makes its own masks, and the biases of
ALiBi, from a mask of two dimensions: which positions of each row hold tokens. All other
models apply the masks of this module as they are.

An additive mask has one width, so attention reads the length of the longest row in
every row. With a block mask, FlexAttention reads the blocks of keys that each row has.
It is a compiled kernel, so only compiled steps use it. With uneven lengths (one row of
318, seven around 110) a compiled step of a 10M Llama takes 0.76 of its time with SDPA,
and new lengths do not compile it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from ..model.positions import positions_of
from ..model.sizes import ALIGNMENT, round_up
from . import flash
from .families import Family, family_of

FULL = "full_attention"
SLIDING = "sliding_attention"

Mask = Tensor | BlockMask | Mapping[str, Tensor | None] | Mapping[str, BlockMask] | None
"""One for all layers, or one by kind of layer; `None` is causal attention of a prompt
over itself."""

_UNMASKED = ("linear_attention", "conv")
"""Recurrent layers: they meet neither other rows nor padding."""

_BLOCK = ALIGNMENT
"""Keys in a block. The capacity of a row is a multiple of it."""

_BLOCK_QUERIES = 128
"""Queries in a block. A step has as many as heads share keys, which is fewer."""


@attrs.frozen(kw_only=True)
class Masks:
    """Makes the masks of one model."""

    family: Family
    kinds: frozenset[str]
    """Kinds of its attending layers: `FULL`, `SLIDING`, both or none."""
    window: int
    """Positions that a token sees in a sliding layer, its own included."""
    positions: int
    """Positions that the model knows."""
    dtype: torch.dtype
    device: torch.device
    by_spans: bool = False
    """Whether attention may read the cache by spans (`flash`)."""

    @classmethod
    def of(cls, model: Any) -> Masks:
        """Read the needs of a model's layers from its configuration."""
        config = model.config.get_text_config(decoder=True)
        family = family_of(config)
        kinds = {FULL}
        if not family.attends:
            kinds = set()
        elif family.window == "by layer":
            kinds = set(config.layer_types)
        elif family.window and config.sliding_window:
            kinds = {SLIDING}
        return cls(
            family=family,
            kinds=frozenset(kinds),
            window=config.sliding_window if SLIDING in kinds else 0,
            positions=positions_of(config),
            dtype=model.dtype,
            device=model.device,
            by_spans=kinds == {FULL} and flash.serves(model),
        )

    @property
    def makes_own(self) -> bool:
        """Whether the model masks by itself, by where the cache of a row ends.

        Then the tokens of a pass end where the cache does, without padding.
        """
        return self.family.own_attention or bool(self.family.one_at_a_time)

    def seen(self, end: int) -> int:
        """Return how many positions attention reads of rows that end before *end*."""
        if self.family.one_at_a_time:  # its masks go by where the cache ends
            return end
        seen = round_up(end)
        # Biases that a model makes by itself end with its last position.
        return min(seen, self.positions) if self.family.own_attention else seen

    def for_prompts(self, rows: int, width: int) -> Mask:
        """Return the mask of fresh prompts, padded on the right to *width*.

        Attention is causal, so a token never sees the padding on its right, and
        transformers makes no mask of the ones (`attention`). They are there because
        GPT-2 warns of padding without them, and ALiBi counts them.
        """
        hides_nothing = SLIDING not in self.kinds or width <= self.window
        if hides_nothing and not self.family.recurrent:
            return torch.ones(rows, width, dtype=torch.int64, device=self.device)
        masks: dict[str, Tensor | None] = dict.fromkeys(self.kinds)
        if SLIDING in masks:
            positions = torch.arange(width, device=self.device)
            hidden = self._hidden(positions[:, None], positions, SLIDING)
            masks[SLIDING] = self._additive(hidden)[None, None]
        return self._by_layer(masks)

    def for_ragged(self, positions: Tensor, prompts: Tensor) -> Mask:
        """Return the mask of fresh prompts that follow each other in one row of tokens.

        Args:
            positions: ``[tokens]``, int64: position of each token in its prompt.
            prompts: ``[tokens]``, int64: number of its prompt.
        """
        others = prompts[:, None] != prompts
        return self._by_layer(
            {
                kind: self._additive(
                    others | self._hidden(positions[:, None], positions, kind)
                )[None, None]
                for kind in self.kinds
            }
        )

    def for_cached(self, positions: Tensor, seen: int) -> Mask:
        """Return the mask of tokens that see the cached ones before them.

        Args:
            positions: ``[rows, tokens]``, int64, ascending.
            seen: Positions that attention reads of every row.
        """
        keys = torch.arange(seen, device=self.device)
        if self.family.own_attention:
            return (keys <= positions[:, -1:]).to(torch.int64)
        return self._by_layer(
            {
                kind: self._additive(
                    self._hidden(positions[:, None, :, None], keys, kind)
                )
                for kind in self.kinds
            }
        )

    def in_blocks(self, positions: Tensor, *, queries: int, capacity: int) -> Mask:
        """Return the mask of `for_cached` for one token a row, as a block mask.

        Args:
            positions: ``[rows]``, int64: position of each row's token.
            queries: Heads that share keys and values: they are the queries of a row.
            capacity: Positions of a row of the cache.
        """
        made = {
            kind: _block_mask(
                positions,
                window=self.window if kind == SLIDING else capacity,
                queries=queries,
                capacity=capacity,
            )
            for kind in self.kinds
        }
        return made if len(made) > 1 else next(iter(made.values()))

    def _by_layer(self, masks: Mapping[str, Tensor | None]) -> Mask:
        """Return the masks of the attending layers as the model takes them."""
        if self.family.recurrent:
            return {**dict.fromkeys(_UNMASKED), **masks} if masks else None
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _hidden(self, queries: Tensor, keys: Tensor, kind: str) -> Tensor:
        """Return which positions of *keys* a query does not see."""
        hidden = keys > queries
        if kind == SLIDING:
            hidden = hidden | (keys <= queries - self.window)
        return hidden

    def _additive(self, hidden: Tensor) -> Tensor:
        """Return zero, or the least number where hidden.

        SDPA would turn a mask of booleans into this in every layer.
        """
        mask = torch.zeros((), dtype=self.dtype, device=self.device)
        return mask.masked_fill(hidden, torch.finfo(self.dtype).min)


def _block_mask(
    positions: Tensor, *, window: int, queries: int, capacity: int
) -> BlockMask:
    """Let each row see *window* positions, up to its own."""

    def is_seen(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        del head, query
        return (key <= positions[row]) & (key > positions[row] - window)

    rows = positions.shape[0]
    first = (positions - window + 1).clamp(min=0) // _BLOCK
    count = positions // _BLOCK - first + 1
    blocks = torch.arange(capacity // _BLOCK, device=positions.device)
    numbers = (first[:, None] + blocks).clamp(max=capacity // _BLOCK - 1)
    return BlockMask.from_kv_blocks(
        count.view(rows, 1, 1).to(torch.int32),
        numbers.view(rows, 1, 1, -1).to(torch.int32),
        BLOCK_SIZE=(_BLOCK_QUERIES, _BLOCK),
        mask_mod=is_seen,
        seq_lengths=(queries, capacity),
        compute_q_blocks=False,
    )
