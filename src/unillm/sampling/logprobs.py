# SPDX-License-Identifier: Apache-2.0

"""Log-probabilities of raw logits: of new tokens and of prompt tokens."""

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
    """Rows that ask for the same count, and the indices of their numbers in a fetch."""

    rows: Sequence[int]
    chosen: int
    top_ids: int
    top_logprobs: int


class LogprobsFetch:
    """Computes the log-probabilities for the rows of one step, and reads them fetched.

    Args:
        fetch: Transfers the numbers.
        logits: ``[rows, vocab]``, float32, from the model.
        chosen: ``[rows]``, int64: the chosen tokens.
        counts: `SamplingParams.logprobs` of each row: `None` for none, 0 for the
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
        # One pass for each count, so that a row which asks for the whole vocabulary
        # does not enlarge the fetch of the others.
        self._asked = [
            _ask(fetch, logits, chosen, rows, top) for top, rows in by_count.items()
        ]

    def read(self, fetched: list[list[list[float]]]) -> dict[int, TokenLogprobs]:
        """Return the log-probabilities by row, for the rows that ask for them."""
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
    """The prompt log-probabilities that the chunks of one prefill ask for.

    Attributes:
        places: Chunk and position, where the model predicts an asked-for token.
    """

    places: Sequence[tuple[int, int]]
    _tokens: Sequence[tuple[int, int, int]]
    """Slot, token id and count of each place."""
    _slots: Sequence[int]

    @classmethod
    def of(cls, chunks: Sequence[PromptChunk]) -> PromptLogprobs:
        """Return what the chunks of a prefill ask for, which is mostly nothing."""
        places: list[tuple[int, int]] = []
        tokens: list[tuple[int, int, int]] = []
        slots: list[int] = []
        for row, chunk in enumerate(chunks):
            count = chunk.request.params.prompt_logprobs
            if count is None:
                continue
            slots.append(chunk.slot)
            following = chunk.request.prompt_token_ids[chunk.start + 1 : chunk.end + 1]
            places += [(row, position) for position in range(len(following))]
            tokens += [(chunk.slot, token_id, count) for token_id in following]
        return cls(places, tokens, slots)

    def read(self, logits: Tensor) -> dict[int, list[TokenLogprobs]]:
        """Return the log-probabilities by slot, for the slots that ask for them.

        Args:
            logits: ``[places, vocab]``. The host waits for them, if there are any.
        """
        by_slot: dict[int, list[TokenLogprobs]] = {slot: [] for slot in self._slots}
        if not self.places:
            return by_slot
        fetch, blocks = Fetch(), []
        for start in range(0, len(self.places), _BLOCK):
            part = slice(start, start + _BLOCK)
            _, ids, counts = zip(*self._tokens[part], strict=True)
            chosen = torch.tensor(ids).to(logits.device, non_blocking=True)
            blocks.append(LogprobsFetch(fetch, logits[part].float(), chosen, counts))
        fetched = fetch.run()
        for number, block in enumerate(blocks):
            for row, logprobs in sorted(block.read(fetched).items()):
                slot, _, _ = self._tokens[number * _BLOCK + row]
                by_slot[slot].append(logprobs)
        return by_slot


def _ask(
    fetch: Fetch, logits: Tensor, chosen: Tensor, rows: Sequence[int], top: int
) -> _Asked:
    index = torch.tensor(rows).to(logits.device, non_blocking=True)
    logprobs = logits.index_select(0, index).log_softmax(-1)
    own = logprobs.gather(1, chosen.index_select(0, index)[:, None])
    # vLLM counts the tokens that are at least as probable, including the token itself.
    rank = (logprobs >= own).sum(-1, keepdim=True)
    best = logprobs.topk(top, dim=-1)
    return _Asked(
        rows=rows,
        chosen=fetch.add(torch.cat([own.double(), rank.double()], dim=1)),
        top_ids=fetch.add(best.indices),
        top_logprobs=fetch.add(best.values),
    )
