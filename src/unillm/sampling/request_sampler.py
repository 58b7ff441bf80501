# SPDX-License-Identifier: Apache-2.0

"""`RequestSampler`: the tokens of one request, from logits in arrays of numpy.

It has the rules and the random numbers of `Sampler`, so a seed draws the same tokens on
an engine without torch. One row takes some hundred microseconds for each 32768 tokens
of the vocabulary; an engine whose logits are tensors samples all its rows at once with
`Sampler`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..engines.base import EngineRequest, TokenLogprobs
from ..engines.slots import SlotToken
from .row import Row, checked, token_of
from .seeds import keys_of, number_of

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from ..params import SamplingParams

    _Floats = NDArray[np.float32]

_ONE = 2.0**42
"""Weight 1 as an integer; the sums of weights are those of `filters`."""

_SCALE = np.float32(2.0**-31 * (1 - 2.0**-23))
"""Takes 31 bits into [0, 1); the one of `noise`."""


class RequestSampler:
    """Samples the tokens of one request, one after the other.

    Args:
        request: Its sampling fields and its seed.
        generated: New tokens that it already has, from earlier runs or another slot.
    """

    def __init__(self, request: EngineRequest, generated: Sequence[int] = ()) -> None:
        grammar = None if request.grammar is None else request.grammar.start()
        self._row = Row(slot=0, request=request, grammar=grammar)
        self._generated: list[int] = []
        for token_id in generated:
            self._accept(token_id)

    def next(self, logits: ArrayLike) -> SlotToken:
        """Sample the next token, and remember it.

        Args:
            logits: ``[vocab]``, of the model after the prompt and all tokens so far;
                not changed.

        Returns:
            The token, with log-probabilities if the request asks for them. It is an
            error if the logits hold NaN or ``+inf``, or if the request forbids every
            token.
        """
        row = self._row
        raw = np.asarray(logits, dtype=np.float32)
        scores = self._penalise(self._mask(raw))
        token_id = int(scores.argmax())
        best = scores[token_id]
        if not row.params.greedy and np.isfinite(best):
            keys = keys_of(row.request.seed, row.generated)
            token_id = _draw(_weights(scores, row.params), keys)
        highest = float(raw.max())
        count, logprobs = row.params.logprobs, None
        if count is not None and np.isfinite(highest):  # else the token is an error
            logprobs = token_logprobs(raw, token_id, count)
        number = row.generated + 1
        token = token_of(number, token_id, highest, float(best), logprobs)
        if token.error is None:
            self._accept(token_id)
        return checked(row, token)

    def _accept(self, token_id: int) -> None:
        self._row.count()
        self._row.accept(token_id)
        self._generated.append(token_id)

    def _mask(self, raw: _Floats) -> _Floats:
        """Return a copy with ``-inf`` for forbidden tokens, and with the bias."""
        row = self._row
        scores: _Floats = raw.copy()
        if row.grammar is not None:
            bits = np.frombuffer(row.grammar.allowed(), np.uint8)
            allowed = np.unpackbits(bits, bitorder="little")[: len(scores)]
            scores[allowed == 0] = -np.inf
        if row.params.allowed_token_ids is not None:
            kept = list(row.params.allowed_token_ids)
            only = np.full_like(scores, -np.inf)
            only[kept] = scores[kept]
            scores = only
        scores[[each for each in row.completing_ids() if each < len(scores)]] = -np.inf
        going_on = scores.copy()
        going_on[[each for each in row.early_ids() if each < len(scores)]] = -np.inf
        if row.grammar is None or going_on.max() > -np.inf:  # else it is complete
            scores = going_on
        for token_id, bias in row.params.logit_bias.items():
            scores[token_id] += np.float32(bias)
        return scores

    def _penalise(self, scores: _Floats) -> _Floats:
        row, params = self._row, self._row.params
        if not row.penalised:
            return scores
        new, counts = np.unique(np.array(self._generated, np.int64), return_counts=True)
        seen = np.union1d(np.array(row.request.prompt_token_ids, np.int64), new)
        factor, old = np.float32(params.repetition_penalty), scores[seen]
        scores[seen] = np.where(old > 0, old / factor, old * factor)
        scores[new] -= np.float32(params.frequency_penalty) * counts.astype(np.float32)
        scores[new] -= np.float32(params.presence_penalty)
        return scores


def token_logprobs(logits: ArrayLike, token_id: int, count: int) -> TokenLogprobs:
    """Return the log-probabilities at one position.

    Args:
        logits: ``[vocab]``, of the model, before any rule of the request.
        token_id: The chosen token.
        count: Number of most probable tokens; -1 for all.
    """
    values = np.asarray(logits, dtype=np.float32).astype(np.float64)
    values -= values.max()
    values -= np.log(np.exp(values).sum())
    size = len(values) if count < 0 else min(count, len(values))
    best = np.argsort(-values, kind="stable")[:size]
    return TokenLogprobs(
        logprob=float(values[token_id]),
        rank=int((values >= values[token_id]).sum()),
        top_ids=tuple(best.tolist()),
        top_logprobs=tuple(values[best].tolist()),
    )


def _weights(scores: _Floats, params: SamplingParams) -> _Floats:
    """Return the weights of a draw: 1 for the best token, 0 for dropped ones."""
    temperature = np.float32(params.temperature)
    weights: _Floats = np.exp((scores - scores.max()) / temperature)
    weights[weights < np.float32(params.min_p)] = 0.0
    if 0 < params.top_k < len(scores):
        last = np.partition(scores, -params.top_k)[-params.top_k]
        weights[scores < last] = 0.0
    if params.top_p < 1.0:
        best = np.sort(weights)[::-1]
        fixed = (best * np.float32(_ONE)).astype(np.int64)
        before = (fixed.cumsum() - fixed).astype(np.float64)
        kept = int((before < params.top_p * float(fixed.sum())).sum())
        weights[weights < best[max(kept, 1) - 1]] = 0.0
    return weights


def _draw(weights: _Floats, keys: tuple[int, int]) -> int:
    """Return the token whose exponential clock rings first, as `filters.draw` does."""
    first, second = (np.int32(key) for key in keys)
    bits = _numbers(len(weights)) ^ first
    bits *= np.int32(0x7FEB352D)  # products wrap
    bits ^= (bits >> 16) & 0xFFFF
    bits += second
    bits *= np.int32(0x846CA68B - 2**32)
    bits &= 0x7FFFFFFF
    bits ^= bits >> 15
    clocks = np.log1p(-_SCALE / 2 - _SCALE * bits.astype(np.float32))
    with np.errstate(divide="ignore", over="ignore"):
        return int((clocks / weights).argmax())


@functools.lru_cache(maxsize=4)
def _numbers(vocab_size: int) -> NDArray[np.int32]:
    numbers = [number_of(token_id) for token_id in range(vocab_size)]
    return np.array(numbers, dtype=np.int32)
