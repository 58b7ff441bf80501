# SPDX-License-Identifier: Apache-2.0

"""Counting: which new tokens of a sample count as output. Padding never does."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import attrs

from .samples import Sample

SHORTEST_TAIL = 8
"""A completion may end in a few EOS tokens of its own, under `ignore_eos`."""


@attrs.frozen(kw_only=True)
class Counting:
    """The tokens that may be padding."""

    vocab_size: int | None = None
    """Ids are below it; `None` where a server does not say."""
    filling: Collection[int] = ()
    """EOS tokens and padding tokens."""
    tails_count: bool = False
    """Whether the model was seen to repeat such a token by itself, under
    `ignore_eos`."""

    def total(self, samples: Iterable[Sample]) -> int:
        """Return the tokens that count, over all samples."""
        return sum(map(self.of, samples))

    def of(self, sample: Sample) -> int:
        """Return the tokens of a sample that count.

        They are ids of the vocabulary, without a tail that may be padding.
        """
        if sample.error is not None:
            return 0
        if sample.token_ids is None:
            return sample.reported_tokens
        ids = [i for i in sample.token_ids if self.is_in_vocabulary(i)]
        tail = 0 if self.tails_count else self.tail(ids)
        return len(ids) - (tail if tail >= SHORTEST_TAIL else 0)

    def is_in_vocabulary(self, token_id: int) -> bool:
        """Whether the model has the token."""
        return token_id >= 0 and (self.vocab_size is None or token_id < self.vocab_size)

    def tail(self, ids: Sequence[int]) -> int:
        """Return the length of the tail that is one EOS or padding token, repeated."""
        if not ids or ids[-1] not in self.filling:
            return 0
        return next(
            (n for n, each in enumerate(reversed(ids)) if each != ids[-1]), len(ids)
        )
