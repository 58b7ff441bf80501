# SPDX-License-Identifier: Apache-2.0

"""Log-probabilities of chosen and most probable tokens, before everything else."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from ..engines.base import TokenLogprobs
from .fetch import Fetch


@attrs.frozen
class _Asked:
    """Where the numbers of rows that asked for the same count stand in a fetch."""

    rows: Sequence[int]
    chosen: int
    top_ids: int
    top_logprobs: int


class LogprobsFetch:
    """Computes what the rows of one step asked for, and reads it after the fetch.

    Args:
        fetch: Takes the numbers along.
        logits: ``[rows, vocab]``, float32, as the model gave them.
        chosen: ``[rows]``, int64: the tokens that were taken.
        counts: For each row `SamplingParams.logprobs`: `None` for nothing, 0 for the
            chosen token alone, -1 for the whole vocabulary.
    """

    def __init__(
        self,
        fetch: Fetch,
        logits: Tensor,
        chosen: Tensor,
        counts: Sequence[int | None],
    ) -> None:
        vocab_size = logits.shape[-1]
        by_count: dict[int, list[int]] = {}
        for row, count in enumerate(counts):
            if count is not None:
                top = vocab_size if count < 0 else min(count, vocab_size)
                by_count.setdefault(top, []).append(row)
        # One pass for each number asked: a row that wants the whole vocabulary does not
        # make its neighbours fetch theirs.
        self._asked = [
            _ask(fetch, logits, chosen, rows, top) for top, rows in by_count.items()
        ]

    def read(self, fetched: list[list[list[float]]]) -> dict[int, TokenLogprobs]:
        """Return the log-probabilities by row, for the rows that asked."""
        return {
            row: TokenLogprobs(
                logprob=chosen[0],
                rank=int(chosen[1]),
                top_ids=tuple(int(token_id) for token_id in top_ids),
                top_logprobs=tuple(top_logprobs),
            )
            for asked in self._asked
            for row, chosen, top_ids, top_logprobs in zip(
                asked.rows,
                fetched[asked.chosen],
                fetched[asked.top_ids],
                fetched[asked.top_logprobs],
                strict=True,
            )
        }


def _ask(
    fetch: Fetch, logits: Tensor, chosen: Tensor, rows: Sequence[int], top: int
) -> _Asked:
    index = torch.tensor(rows).to(logits.device, non_blocking=True)
    logprobs = logits.index_select(0, index).log_softmax(-1)
    own = logprobs.gather(1, chosen.index_select(0, index)[:, None])
    # As vLLM counts: the tokens at least as probable, itself among them.
    rank = (logprobs >= own).sum(-1, keepdim=True)
    best = logprobs.topk(top, dim=-1)
    return _Asked(
        rows=rows,
        chosen=fetch.add(torch.cat([own.double(), rank.double()], dim=1)),
        top_ids=fetch.add(best.indices),
        top_logprobs=fetch.add(best.values),
    )
