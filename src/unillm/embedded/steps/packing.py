# SPDX-License-Identifier: Apache-2.0

"""Prompts, and rows that decode, one after the other in a single row of tokens."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from ...sampling.fetch import send
from ..grouping import padded


@attrs.frozen(kw_only=True)
class Part:
    """Sequences of tokens, padded to a number of tokens.

    Padding is a sequence of its own, which no other token sees. It has to write to some
    position, and writes the first token once more.
    """

    rows: Sequence[int]
    """One for each sequence."""
    tokens: Sequence[Sequence[int]]
    """Their ids."""
    starts: Sequence[int]
    """Positions of their rows that hold the tokens before these."""
    count: int
    """Tokens, padding included."""
    is_steps: bool = False
    """Whether each sequence is one token that decodes."""

    @property
    def padding(self) -> int:
        """Tokens of padding."""
        return self.count - sum(map(len, self.tokens))

    def inputs(self, *, at: int) -> list[list[int]]:
        """Return ids, rows, positions, sequence numbers and sources (`RaggedStep`).

        Args:
            at: Tokens before the part.
        """
        padding = self.padding
        ids = [token for each in self.tokens for token in each]
        positions = [
            start + number
            for start, each in zip(self.starts, self.tokens, strict=True)
            for number in range(len(each))
        ]
        return [
            ids + ids[:1] * padding,
            self._each(self.rows) + [self.rows[0]] * padding,
            positions + [self.starts[0]] * padding,
            self._each(range(len(self.tokens))) + [-1] * padding,
            [*range(at, at + len(ids)), *[at] * padding],
        ]

    def ends(self, *, at: int) -> list[int]:
        """Return the index of the last token of each sequence."""
        return list(itertools.accumulate(map(len, self.tokens), initial=at - 1))[1:]

    def spans(self, *, row_size: int, positions: int, width: int) -> list[list[int]]:
        """Return the spans of the sequences (`flash`); further ones have no tokens.

        Args:
            row_size: Vectors of one row of the cache, over all heads.
            positions: Positions of one row.
            width: Sequences, and one more.
        """
        begins = list(itertools.accumulate(map(len, self.tokens), initial=0))
        places = [row * row_size for row in self.rows]
        pairs = zip(self.starts, self.tokens, strict=True)
        lengths = [start + len(ids) for start, ids in pairs]
        if self.is_steps:
            # Each token of padding is a sequence, as those that decode are.
            begins, padding = list(range(self.count + 1)), [1] * self.padding
        else:
            padding = [min(self.padding, positions)]
        places += places[:1] * len(padding)
        lengths += padding
        return [
            padded(begins, width, self.count),
            padded(places, width, 0),
            padded(lengths, width, 0),
        ]

    def _each(self, values: Sequence[int]) -> list[int]:
        """Repeat the value of each sequence for its tokens."""
        pairs = zip(values, self.tokens, strict=True)
        return [value for value, each in pairs for _ in each]


def inputs_of(parts: Sequence[Part], device: torch.device) -> Tensor:
    """Return ``[5, tokens]``, int64: `Part.inputs` of parts in a row."""
    at, made = 0, []
    for part in parts:
        made.append(send(part.inputs(at=at), device))
        at += part.count
    return torch.cat(made, dim=1)
