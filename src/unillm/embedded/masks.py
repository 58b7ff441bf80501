# SPDX-License-Identifier: Apache-2.0

"""Masks: which positions a token may see, for all layers or for each kind of layer.

A model outside transformers' attention interface makes its own masks, and the biases of
ALiBi, from a mask of two dimensions: which positions of each row hold tokens. All other
models apply the masks of this module as they are.

An additive mask has one width, so attention reads the length of the longest row in
every row. Spans (`flash`) and ranges (`ranges`) say what each row has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from ..model.positions import positions_of
from ..model.sizes import round_up
from . import flash
from .families import Family, family_of

FULL = "full_attention"
SLIDING = "sliding_attention"

Mask = Tensor | Mapping[str, Tensor | None] | None
"""One for all layers, or one by kind of layer; `None` is causal attention of a prompt
over itself."""

_UNMASKED = ("linear_attention", "conv")
"""Recurrent layers: they meet neither other rows nor padding."""


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

    def in_ranges(self, rows: Tensor, positions: Tensor) -> Mask:
        """Return the mask of tokens that see the cached ones before them, as ranges.

        Args:
            rows: ``[tokens]``, int64: row of each token.
            positions: ``[tokens]``, int64: its position there.
        """
        firsts = dict.fromkeys(self.kinds, torch.zeros_like(positions))
        if SLIDING in firsts:
            firsts[SLIDING] = (positions - self.window + 1).clamp(min=0)
        return self._by_layer(
            {
                kind: torch.stack([rows, first, positions + 1])[None, None]
                for kind, first in firsts.items()
            }
        )

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
