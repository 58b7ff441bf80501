# SPDX-License-Identifier: Apache-2.0

"""Equal requests draw the same tokens for the same seed, and others for another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from ..reference import distribution
from .jobs import Job
from .trying import Tried

if TYPE_CHECKING:
    from ...engines.base import EngineRequest

SAME_BY_CHANCE = 1e-10
"""Two seeds that draw the same tokens, although that is less probable than this, are
one seed to the engine."""


class Twins:
    """Compares requests that differ in their seed alone, or not at all.

    Args:
        scores: The oracle's scores of a request after some new tokens.
        spared: Pairs of equal seeds that may have different tokens. Rounding may change
            a draw once in many thousands, so a long run spares one.
    """

    def __init__(
        self, scores: Callable[[EngineRequest, Sequence[int]], Any], *, spared: int
    ) -> None:
        self._scores = scores
        self._spared = spared
        self._seen: dict[str, list[tuple[Job, tuple[int, ...]]]] = {}
        self._unequal = 0

    def fault_of(
        self, jobs: Sequence[Job], tried: Tried
    ) -> tuple[str, Sequence[Job]] | None:
        """Compare the requests of a session with earlier ones."""
        for job in jobs:
            ids = tried.tokens.get(job.request.request_id)
            if ids is None or job.request.params.greedy:
                continue
            alike = self._seen.setdefault(_key(job.request), [])
            for other, others in alike:
                if found := self._compare(job, ids, other, others):
                    return found, [other, job]
            alike.append((job, ids))
        return None

    def _compare(
        self,
        job: Job,
        ids: tuple[int, ...],
        other: Job,
        others: tuple[int, ...],
    ) -> str:
        one, two = job.request.seed, other.request.seed
        if one == two:
            self._unequal += ids != others
            if self._unequal <= self._spared:
                return ""
            return (
                f"The same request with the seed {one} drew {list(others)} and then "
                f"{list(ids)}; it is pair {self._unequal} of this kind."
            )
        if ids != others or self._chance(job.judged, ids) > SAME_BY_CHANCE:
            return ""
        return (
            f"The seeds {two} and {one} drew the same tokens, {list(ids)}: the engine "
            "does not use all 64 bits."
        )

    def _chance(self, request: EngineRequest, ids: Sequence[int]) -> float:
        """Return the probability of drawing these tokens."""
        chance = 1.0
        for position, token_id in enumerate(ids):
            scores = self._scores(request, ids[:position])
            chance *= distribution(scores, request.params)[token_id]
        return float(chance)


def _key(request: EngineRequest) -> str:
    params = attrs.evolve(request.params, seed=None)
    return repr((request.prompt_token_ids, params, request.bad_words_token_ids))
