# SPDX-License-Identifier: Apache-2.0

"""Log-probabilities, of new tokens and of prompt tokens, or the scores themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import attrs
import torch
from torch import Tensor

from ..engines.base import TokenLogprobs
from ..engines.slots import PromptChunk
from .fetch import Fetch, send

LogprobsMode = Literal[
    "raw_logprobs", "raw_logits", "processed_logprobs", "processed_logits"
]
"""The numbers that an engine returns as log-probabilities, by vLLM's names: of the
model's logits or of the scores that a token is drawn from, normalised or not. The
tokens of a prompt are not drawn: there the model's logits are the scores."""

LOGPROBS_MODES: tuple[str, ...] = get_args(LogprobsMode)


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
        scores: ``[rows, vocab]``, float32.
        chosen: ``[rows]``, int64: the chosen tokens.
        counts: `SamplingParams.logprobs` of each row: `None` for none, 0 for the
            chosen token alone, -1 for the whole vocabulary.
        labels: Token ids of each row that are returned instead, or `None`.
        mode: Whether the scores are normalised.
    """

    def __init__(
        self,
        fetch: Fetch,
        scores: Tensor,
        chosen: Tensor,
        counts: Sequence[int | None],
        *,
        labels: Sequence[tuple[int, ...] | None] | None = None,
        mode: LogprobsMode = "raw_logprobs",
    ) -> None:
        vocab_size = scores.shape[-1]
        by_count: dict[int | tuple[int, ...], list[int]] = {}
        for row, count in enumerate(counts):
            of_row = None if labels is None else labels[row]
            if of_row is not None:
                by_count.setdefault(of_row, []).append(row)
            elif count is not None:
                top = vocab_size if count < 0 else min(count, vocab_size)
                by_count.setdefault(top, []).append(row)
        # One pass for each count, so that a row which asks for the whole vocabulary
        # does not enlarge the fetch of the others.
        self._asked = [
            _ask(fetch, scores, chosen, rows, top, normalised=mode.endswith("logprobs"))
            for top, rows in by_count.items()
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

    def read(
        self, logits: Tensor, *, mode: LogprobsMode = "raw_logprobs"
    ) -> dict[int, list[TokenLogprobs]]:
        """Return the log-probabilities by slot, for the slots that ask for them.

        Args:
            logits: ``[places, vocab]``. The host waits for them, if there are any.
            mode: Whether the logits are normalised.
        """
        by_slot: dict[int, list[TokenLogprobs]] = {slot: [] for slot in self._slots}
        if not self.places:
            return by_slot
        fetch, blocks = Fetch(), []
        for start in range(0, len(self.places), _BLOCK):
            part = slice(start, start + _BLOCK)
            _, ids, counts = zip(*self._tokens[part], strict=True)
            chosen = send(ids, logits.device)
            blocks.append(
                LogprobsFetch(fetch, logits[part].float(), chosen, counts, mode=mode)
            )
        fetch.start()
        fetched = fetch.read()
        for number, block in enumerate(blocks):
            for row, logprobs in sorted(block.read(fetched).items()):
                slot, _, _ = self._tokens[number * _BLOCK + row]
                by_slot[slot].append(logprobs)
        return by_slot


def _ask(
    fetch: Fetch,
    scores: Tensor,
    chosen: Tensor,
    rows: Sequence[int],
    top: int | tuple[int, ...],
    *,
    normalised: bool,
) -> _Asked:
    index = send(rows, scores.device)
    values = scores.index_select(0, index)
    if normalised:
        values = values.log_softmax(-1)
    own = values.gather(1, chosen.index_select(0, index)[:, None])
    # vLLM counts the tokens that are at least as probable, including the token itself.
    rank = (values >= own).sum(-1, keepdim=True)
    if isinstance(top, int):
        best, ids = values.topk(top, dim=-1)
    else:
        labels = send(top, scores.device)
        best, ids = values.index_select(1, labels), labels.expand(len(rows), -1)
    return _Asked(
        rows=rows,
        chosen=fetch.add(torch.cat([own.double(), rank.double()], dim=1)),
        top_ids=fetch.add(ids),
        top_logprobs=fetch.add(best),
    )
