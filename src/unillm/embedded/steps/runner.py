# SPDX-License-Identifier: Apache-2.0

"""`StepRunner`: what an engine needs of its device to compute a step.

The engine knows rows, lengths and requests. A runner knows none of them: it feeds the
leading rows of the cache one token each and returns logits.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence

from torch import Tensor


class StepRunner(abc.ABC):
    """Computes steps of one model over one cache.

    Called from one thread, in inference mode. Between the calls the engine computes
    prefills in the same cache, and clears and moves its rows; its tensors stay where
    they are.
    """

    best: Tensor | None = None
    """``[2, rows]``, float64: the highest logit of each row of the last `run`, and its
    id; `None` from a runner that leaves that to the sampler."""

    def rows_for(self, count: int) -> int:
        """Return how many leading rows a step computes that needs *count* of them.

        At least *count* and at most all. A runner that is prepared for a few numbers of
        rows rounds up; the engine gives harmless tokens to the other rows.
        """
        return count

    @abc.abstractmethod
    def run(self, fed: Tensor, *, seen: int) -> Tensor:
        """Feed the leading rows one token each.

        Args:
            fed: ``[3, rows]``, int64, on the device: each token's id, its position, and
                the place in its row where its keys and values are written. A row that
                no slot asked for has position 0, so that attention reads little of it,
                and another place, so that it keeps what it holds.
            seen: Positions from the start of a row that attention has to read: one more
                than the largest position. Under the mask it may read more of them.

        Returns:
            ``[rows, vocab]``. Valid until the next call.
        """

    continues: bool = False
    """Whether `write_prompts` takes tokens that go on from those in their rows."""

    def tokens_for(self, count: int, *, steps: int = 0) -> int | None:
        """Return how many tokens `write_prompts` computes, padding included.

        `None` where it does not take so many: the engine computes such prompts itself.

        Args:
            count: Tokens of all prompts.
            steps: Rows that decode; 0 unless the runner `continues`.
        """
        del count, steps
        return None

    def write_prompts(
        self,
        rows: Sequence[int],
        tokens: Sequence[Sequence[int]],
        starts: Sequence[int],
        *,
        steps: Tensor | None = None,
    ) -> Tensor:
        """Compute prompts, and rows that decode, in one pass.

        Args:
            rows: Different ones: first of the prompts, then those that decode.
            tokens: Ids of each prompt, for whose number `tokens_for` returns one.
            starts: Positions of each row that hold the tokens before these; 0 for all
                unless the runner `continues`.
            steps: ``[rows that decode]``, int64, on the device: an id for each.

        Returns:
            ``[rows, vocab]``: logits of their last tokens. Valid until the next call.
        """
        raise NotImplementedError

    def close(self) -> None:  # noqa: B027 - optional
        """End what the runner has begun. A second call does nothing."""
