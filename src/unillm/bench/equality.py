# SPDX-License-Identifier: Apache-2.0

"""Equality of the answers of two sides to the same asks. Pure values."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from .samples import Run


@attrs.frozen(kw_only=True)
class Equality:
    """How far the greedy answers of two sides agree."""

    requests: int
    """Pairs of answers with ids on both sides."""
    equal: int
    """Pairs with the same tokens from first to last."""
    common_share: float
    """Mean share of a completion before the first different token."""


def equality(ones: Sequence[Run], others: Sequence[Run]) -> Equality | None:
    """Compare the same rounds of two sides; `None` where a side has no ids."""
    equal, shares = 0, []
    for one, other in zip(ones, others, strict=True):
        for a, b in zip(one.samples, other.samples, strict=True):
            if not a.token_ids or not b.token_ids:
                continue
            pairs = zip(a.token_ids, b.token_ids, strict=False)
            longest = max(len(a.token_ids), len(b.token_ids))
            shortest = min(len(a.token_ids), len(b.token_ids))
            common = next((n for n, (x, y) in enumerate(pairs) if x != y), shortest)
            equal += common == longest
            shares.append(common / longest)
    if not shares:
        return None
    return Equality(
        requests=len(shares), equal=equal, common_share=sum(shares) / len(shares)
    )
