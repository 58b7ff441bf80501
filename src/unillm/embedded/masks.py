# SPDX-License-Identifier: Apache-2.0

"""What tokens may see: one mask, or one for each kind of layer.

A model outside transformers' attention interface (`families.OWN_ATTENTION`) makes its
masks, and the biases of ALiBi, from a mask of two dimensions: which positions of each
row hold tokens. All others are given what their layers use as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from ..model.positions import positions_of
from ..model.sizes import round_up
from . import families

FULL = "full_attention"
SLIDING = "sliding_attention"

Mask = Tensor | Mapping[str, Tensor | None] | None
"""For all layers, or by kind of layer; `None` is causal attention of a prompt alone."""

_UNMASKED = ("linear_attention", "conv")
"""Layers that keep a state of a row: nothing of other rows, and no padding, ever comes
to them."""


@attrs.frozen(kw_only=True)
class Masks:
    """Makes the masks of one model."""

    kinds: frozenset[str]
    """Of its layers that attend: `FULL`, `SLIDING`, both or none."""
    recurrent: bool
    """Whether other layers keep states: prompts come without padding."""
    window: int
    """Positions that a token in a sliding layer sees, itself among them."""
    by_length: bool
    """Whether the model makes its own from which positions hold tokens."""
    exact: bool
    """Whether it also goes by where the cache ends: no position more is read."""
    positions: int
    """Positions that the model knows."""
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, model: Any) -> Masks:
        """Read from a model's configuration what its layers want."""
        config = model.config.get_text_config(decoder=True)
        kinds = {FULL}
        if config.model_type in families.CACHE_ARGUMENTS:
            kinds = set()
        elif config.model_type in families.WINDOW_BY_LAYER:
            kinds = set(config.layer_types)
        elif config.model_type in families.WINDOW_ON_ALL and config.sliding_window:
            kinds = {SLIDING}
        return cls(
            kinds=frozenset(kinds),
            recurrent=config.model_type in families.RECURRENT,
            window=config.sliding_window if SLIDING in kinds else 0,
            by_length=config.model_type in families.OWN_ATTENTION,
            exact=config.model_type in families.ONE_AT_A_TIME,
            positions=positions_of(config),
            dtype=model.dtype,
            device=model.device,
        )

    def seen(self, end: int) -> int:
        """Return how many positions attention reads of rows that end before *end*."""
        if self.exact:
            return end
        seen = round_up(end)
        # Biases that a model makes by itself end with its last position.
        return min(seen, self.positions) if self.by_length else seen

    def for_prompts(self, rows: int, width: int) -> Mask:
        """Return the mask of fresh prompts, padded on the right to *width*.

        Causal over the prompts alone: a token never sees the padding on its right. That
        no mask is made of the ones, attention.py sees to; they are there because GPT-2
        warns of padding without them, and ALiBi counts them.
        """
        if self.recurrent:
            return self._by_kind({FULL: None}) if self.kinds else None
        if SLIDING not in self.kinds or width <= self.window:
            return torch.ones(rows, width, dtype=torch.int64, device=self.device)
        positions = torch.arange(width, device=self.device)
        hidden = self._hidden(positions[:, None], positions, SLIDING)
        sliding = self._additive(hidden)[None, None]
        return sliding if self.kinds == {SLIDING} else {FULL: None, SLIDING: sliding}

    def for_packed(self, positions: Tensor, prompts: Tensor) -> Mask:
        """Return the mask of fresh prompts that stand one after the other.

        Args:
            positions: ``[tokens]``, int64: of each token in its prompt.
            prompts: ``[tokens]``, int64: which prompt it is of.
        """
        others = prompts[:, None] != prompts
        masks = {
            kind: self._additive(
                others | self._hidden(positions[:, None], positions, kind)
            )[None, None]
            for kind in self.kinds
        }
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def for_cached(self, positions: Tensor, seen: int) -> Mask:
        """Return the mask of tokens that see what is cached before them.

        Args:
            positions: ``[rows, tokens]``, int64, ascending.
            seen: Positions that attention reads of every row.
        """
        if self.by_length:
            keys = torch.arange(seen, device=self.device)
            return (keys <= positions[:, -1:]).to(torch.int64)
        keys = torch.arange(seen, device=self.device)
        masks = {
            kind: self._additive(self._hidden(positions[:, None, :, None], keys, kind))
            for kind in self.kinds
        }
        if self.recurrent:
            return self._by_kind(masks) if self.kinds else None
        return masks if len(masks) > 1 else next(iter(masks.values()))

    @staticmethod
    def _by_kind(masks: Mapping[str, Tensor | None]) -> Mask:
        return {**dict.fromkeys(_UNMASKED), **masks}

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
