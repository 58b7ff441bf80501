# SPDX-License-Identifier: Apache-2.0

"""Log-probabilities of tokens and of the most probable ones, before everything else.

Of new tokens (`LogprobsFetch`) and of those of a prompt (`PromptLogprobs`).
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from ..engines.base import TokenLogprobs
from ..engines.slots import PromptChunk
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


_BLOCK = 64
"""Prompt positions whose log-softmax is computed at a time."""


@attrs.frozen
class PromptLogprobs:
    """What the requests of one prefill pass want to know of their prompts.

    Attributes:
        places: Chunk and position in it, where a wanted token is predicted.
    """

    places: Sequence[tuple[int, int]]
    _slots: Sequence[int]
    _ids: Sequence[int]
    _counts: Sequence[int]
    _told: Sequence[int]

    @classmethod
    def of(cls, chunks: Sequence[PromptChunk]) -> PromptLogprobs:
        """Return what *chunks*, the rows of a pass, ask; nothing as a rule."""
        places: list[tuple[int, int]] = []
        slots: list[int] = []
        ids: list[int] = []
        counts: list[int] = []
        told: list[int] = []
        for row, chunk in enumerate(chunks):
            count = chunk.request.params.prompt_logprobs
            if count is None:
                continue
            told.append(chunk.slot)
            following = chunk.request.prompt_token_ids[chunk.start + 1 : chunk.end + 1]
            places += [(row, position) for position in range(len(following))]
            ids += following
            slots += [chunk.slot] * len(following)
            counts += [count] * len(following)
        return cls(places, slots, ids, counts, told)

    def read(self, logits: Tensor) -> dict[int, list[TokenLogprobs]]:
        """Return the log-probabilities by slot, for the slots that asked.

        Args:
            logits: ``[places, vocab]``. The host waits for them, if there are any.
        """
        by_slot: dict[int, list[TokenLogprobs]] = {slot: [] for slot in self._told}
        if not self.places:
            return by_slot
        fetch, blocks = Fetch(), []
        for start in range(0, len(self.places), _BLOCK):
            part = slice(start, start + _BLOCK)
            ids = torch.tensor(self._ids[part]).to(logits.device, non_blocking=True)
            blocks.append(
                LogprobsFetch(
                    fetch, logits[part].float(), ids, list(self._counts[part])
                )
            )
        fetched = fetch.run()
        for number, block in enumerate(blocks):
            for row, logprobs in sorted(block.read(fetched).items()):
                by_slot[self._slots[number * _BLOCK + row]].append(logprobs)
        return by_slot


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
