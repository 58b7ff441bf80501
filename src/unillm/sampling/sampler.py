# SPDX-License-Identifier: Apache-2.0

"""`Sampler`: the next token of every row of a batch, each by its own request's rules.

The order is vLLM's: log-probabilities of the raw logits; masked what a grammar forbids,
what is not among `allowed_token_ids`, what completes one of `bad_words`, and end ids
until `min_tokens`; `logit_bias`; penalties; temperature; min_p; top_k; top_p; the draw.
A greedy row takes the best token after masks, bias and penalties.

What no row of a step asks for is not computed, and the host waits for the device once a
step. Everything that is kept belongs to a slot and goes with its release.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from ..engines.base import EngineRequest, TokenGrammarState, TokenLogprobs
from ..engines.slots import SlotToken
from ..params import SamplingParams
from . import filters
from .fetch import Fetch
from .logprobs import LogprobsFetch
from .penalties import PenaltyCounts
from .uniform import uniform

_NO_TOKEN = -1
_BYTE = torch.uint8


@attrs.define(eq=False)
class _Row:
    """What one request wants, and how far it is."""

    slot: int
    request: EngineRequest
    generated: int
    banned: Tensor | None = None
    """``[vocab]``: whether an id is never allowed."""
    recent: list[int] = attrs.field(factory=list)
    """The last new tokens, as many as `bad_words` look at."""
    grammar: TokenGrammarState | None = None
    plain: bool = False
    """Whether it is greedy and asks for nothing else, but perhaps for `min_tokens`."""

    @property
    def params(self) -> SamplingParams:
        return self.request.params

    @property
    def penalised(self) -> bool:
        params = self.params
        return bool(
            params.repetition_penalty != 1.0
            or params.frequency_penalty
            or params.presence_penalty
        )

    @property
    def masks_stops(self) -> bool:
        return self.generated < self.params.min_tokens

    @property
    def constrained(self) -> bool:
        """Whether some tokens are forbidden or preferred, apart from the penalties."""
        return bool(
            self.banned is not None
            or self.grammar is not None
            or self.request.bad_words_token_ids
            or self.params.logit_bias
        )

    def banned_now(self) -> set[int]:
        """Return the ids that would complete one of `bad_words`."""
        return {
            last
            for *before, last in self.request.bad_words_token_ids
            if not before or self.recent[-len(before) :] == before
        }

    def note(self, token_id: int) -> None:
        """Take notice of a new token."""
        self.generated += 1
        if self.request.bad_words_token_ids:
            longest = max(map(len, self.request.bad_words_token_ids))
            self.recent = [*self.recent, token_id][-longest:]
        if self.grammar is not None:
            self.grammar.accept(token_id)

    @property
    def takes_best(self) -> bool:
        """Whether the highest logit is all that counts in this step."""
        return self.plain and not self.masks_stops


class Sampler:
    """Chooses tokens for the requests of *num_slots* slots.

    May be used from any thread, one at a time.

    Args:
        num_slots: Slots are numbered below it.
        vocab_size: Width of the logits.
        device: Where the logits are.
    """

    def __init__(
        self, *, num_slots: int, vocab_size: int, device: torch.device
    ) -> None:
        self._vocab_size = vocab_size
        self._device = device
        self._rows: dict[int, _Row] = {}
        self._penalties = PenaltyCounts(
            num_slots=num_slots, vocab_size=vocab_size, device=device
        )

    def assign(
        self, slot: int, request: EngineRequest, *, generated: Sequence[int] = ()
    ) -> None:
        """Give a free slot to a request.

        Args:
            slot: Has no request.
            request: Says how to choose.
            generated: New tokens that it already has, when it goes on in another slot.
                They are not part of its prompt.
        """
        assert slot not in self._rows, "a held slot was given away"
        row = _Row(slot, request, 0, banned=self._banned(request.params))
        if request.grammar is not None:
            row.grammar = request.grammar.start()
        row.plain = (
            row.params.greedy
            and row.params.logprobs is None
            and not row.constrained
            and not row.penalised
        )
        for token_id in generated:
            row.note(token_id)
        self._rows[slot] = row
        if row.penalised:
            with torch.inference_mode():
                self._penalties.begin(slot, request.prompt_token_ids, generated)

    def release(self, slot: int) -> None:
        """Forget the slot's request."""
        row = self._rows.pop(slot)
        if row.penalised:
            with torch.inference_mode():
                self._penalties.forget(slot)

    def close(self) -> None:
        """Let go of the memory; nothing can be assigned any more."""
        self._rows.clear()
        self._penalties.free()

    def sample(
        self, logits: Tensor, slots: Sequence[int], *, best: Tensor | None = None
    ) -> list[SlotToken]:
        """Choose one token for each row.

        Args:
            logits: ``[rows, vocab]``, any floating type; not changed.
            slots: Whose logits these are, row by row; each has a request.
            best: `best_of` the logits, where it is known already.

        Returns:
            In the order of *slots*. A row whose logits hold NaN or ``+inf``, or nothing
            that is allowed, has an error instead of a token; the others are not
            concerned.
        """
        rows = [self._rows[slot] for slot in slots]
        with torch.inference_mode():
            if all(row.takes_best for row in rows):
                return self._take_best(best_of(logits) if best is None else best, rows)
            tokens = self._choose(logits.float(), rows)
        for row, token in zip(rows, tokens, strict=True):
            if token.error is None:
                row.note(token.token_id)
        return [_checked(row, token) for row, token in zip(rows, tokens, strict=True)]

    def _take_best(self, best: Tensor, rows: Sequence[_Row]) -> list[SlotToken]:
        # NaN wins a maximum, so the best score tells whether all of them are numbers.
        scores, ids = best.tolist()
        tokens = [
            _token(row, int(token_id), score, score, None)
            for row, token_id, score in zip(rows, ids, scores, strict=True)
        ]
        for row, token in zip(rows, tokens, strict=True):
            if token.error is None:
                row.generated += 1  # all that `note` does for a plain row
        return tokens

    def _choose(self, logits: Tensor, rows: Sequence[_Row]) -> list[SlotToken]:
        scores = self._mask_grammar(logits, rows)
        scores = self._mask_banned(scores, rows)
        scores = self._mask_ids(scores, rows)
        scores = self._add_bias(scores, rows)
        scores = self._penalise(scores, rows)
        best, chosen = scores.max(dim=-1)
        chosen = self._draw(scores, best, chosen, rows)
        self._count(chosen, rows)
        fetch = Fetch()
        fetch.add(torch.stack([chosen.double(), logits.amax(-1).double(), best], 1))
        logprobs = LogprobsFetch(
            fetch, logits, chosen, [row.params.logprobs for row in rows]
        )
        fetched = fetch.run()
        by_row = logprobs.read(fetched)
        return [
            _token(row, int(token_id), highest, score, by_row.get(place))
            for place, (row, (token_id, highest, score)) in enumerate(
                zip(rows, fetched[0], strict=True)
            )
        ]

    # ------------------------------------------------------- one rule after the other

    def _mask_grammar(self, scores: Tensor, rows: Sequence[_Row]) -> Tensor:
        """Leave rows with a grammar what may follow; of all rows in one go."""
        # The device may still be at work on the logits meanwhile.
        masks = {
            place: row.grammar.allowed()
            for place, row in enumerate(rows)
            if row.grammar is not None
        }
        if not masks:
            return scores
        packed = torch.frombuffer(bytearray(b"".join(masks.values())), dtype=_BYTE)
        packed = packed.view(len(masks), -1, 1).to(self._device, non_blocking=True)
        bits = packed >> torch.arange(8, dtype=_BYTE, device=self._device) & 1
        forbidden = bits.view(len(masks), -1)[:, : self._vocab_size] == 0
        index = self._tensor(list(masks))
        left = scores.index_select(0, index).masked_fill_(forbidden, -torch.inf)
        return scores.index_copy(0, index, left)

    def _banned(self, params: SamplingParams) -> Tensor | None:
        if params.allowed_token_ids is None:
            return None
        with torch.inference_mode():
            banned = torch.ones(self._vocab_size, dtype=torch.bool, device=self._device)
            return banned.index_fill_(
                0, self._tensor(params.allowed_token_ids), value=False
            )

    def _mask_banned(self, scores: Tensor, rows: Sequence[_Row]) -> Tensor:
        """Leave rows with `allowed_token_ids` nothing else."""
        masks = {
            place: row.banned
            for place, row in enumerate(rows)
            if row.banned is not None
        }
        if not masks:
            return scores
        index = self._tensor(list(masks))
        left = scores.index_select(0, index).masked_fill(
            torch.stack(list(masks.values())), -torch.inf
        )
        return scores.index_copy(0, index, left)

    def _mask_ids(self, scores: Tensor, rows: Sequence[_Row]) -> Tensor:
        """Take what completes a bad word, and the end ids where it is too soon."""
        masked = [
            (place, token_id)
            for place, row in enumerate(rows)
            for token_id in (
                *row.banned_now(),
                *(row.request.stop_token_ids if row.masks_stops else ()),
            )
            if token_id < self._vocab_size
        ]
        if not masked:
            return scores
        places, ids = self._tensor(masked).unbind(1)
        never = torch.full((), -torch.inf, device=self._device)
        return scores.index_put((places, ids), never)

    def _add_bias(self, scores: Tensor, rows: Sequence[_Row]) -> Tensor:
        biases = [
            (place, token_id, bias)
            for place, row in enumerate(rows)
            for token_id, bias in row.params.logit_bias
        ]
        if not biases:
            return scores
        where = self._tensor([(place, token_id) for place, token_id, _ in biases])
        numbers = self._tensor([bias for *_, bias in biases], torch.float32)
        return scores.index_put(tuple(where.unbind(1)), numbers, accumulate=True)

    def _penalise(self, scores: Tensor, rows: Sequence[_Row]) -> Tensor:
        places = [place for place, row in enumerate(rows) if row.penalised]
        if not places:
            return scores
        params = [rows[place].params for place in places]
        numbers = self._tensor(
            [
                (p.repetition_penalty, p.frequency_penalty, p.presence_penalty)
                for p in params
            ],
            torch.float32,
        )
        index = self._tensor(places)
        penalised = self._penalties.apply(
            scores.index_select(0, index),
            self._tensor([rows[place].slot for place in places]),
            repetition=numbers[:, 0],
            frequency=numbers[:, 1],
            presence=numbers[:, 2],
        )
        return scores.index_copy(0, index, penalised)

    def _draw(
        self, scores: Tensor, best: Tensor, chosen: Tensor, rows: Sequence[_Row]
    ) -> Tensor:
        """Replace the best token by a drawn one in the rows that are not greedy."""
        places = [place for place, row in enumerate(rows) if not row.params.greedy]
        if not places:
            return chosen
        index = self._tensor(places)
        drawing = [rows[place] for place in places]
        numbers = self._tensor(
            [
                (uniform(row.request.seed, row.generated), row.params.temperature)
                for row in drawing
            ],
            torch.float64,
        )
        scores = scores.index_select(0, index)
        weights = filters.weigh(
            scores, best.index_select(0, index), numbers[:, 1].float()
        )
        weights = self._filter(weights, scores, [row.params for row in drawing])
        return chosen.index_copy(0, index, filters.draw(weights, numbers[:, 0]))

    def _filter(
        self, weights: Tensor, scores: Tensor, params: Sequence[SamplingParams]
    ) -> Tensor:
        """Apply each filter to the rows that ask for it."""
        if any(p.min_p for p in params):
            min_p = self._tensor([p.min_p for p in params], torch.float32)
            weights = filters.keep_min_p(weights, min_p)
        few = [place for place, p in enumerate(params) if self._limits_count(p)]
        if few:
            index = self._tensor(few)
            kept = filters.keep_top_k(
                weights.index_select(0, index),
                scores.index_select(0, index),
                [params[place].top_k for place in few],
            )
            weights = weights.index_copy(0, index, kept)
        part = [place for place, p in enumerate(params) if p.top_p < 1.0]
        if part:
            index = self._tensor(part)
            top_p = self._tensor([params[place].top_p for place in part], torch.float64)
            kept = filters.keep_top_p(weights.index_select(0, index), top_p)
            weights = weights.index_copy(0, index, kept)
        return weights

    def _limits_count(self, params: SamplingParams) -> bool:
        return 0 < params.top_k < self._vocab_size

    def _count(self, chosen: Tensor, rows: Sequence[_Row]) -> None:
        places = [place for place, row in enumerate(rows) if row.penalised]
        if places:
            slots = self._tensor([rows[place].slot for place in places])
            self._penalties.add(slots, chosen.index_select(0, self._tensor(places)))

    def _tensor(
        self, values: Sequence[object], dtype: torch.dtype = torch.int64
    ) -> Tensor:
        """Put host numbers on the device without waiting for it."""
        return torch.tensor(values, dtype=dtype).to(self._device, non_blocking=True)


def best_of(logits: Tensor) -> Tensor:
    """Return ``[2, rows]``, float64: each row's highest logit and its id."""
    best, chosen = logits.max(dim=-1)
    return torch.stack([best.double(), chosen.double()])


def _checked(row: _Row, token: SlotToken) -> SlotToken:
    """Return the token, or an error if the row's grammar is at its limits."""
    if row.grammar is None or not row.grammar.error:
        return token
    return SlotToken(
        _NO_TOKEN,
        error=(
            f"structured_outputs failed at new token {row.generated}: "
            f"{row.grammar.error}. Simplify what is asked for."
        ),
    )


def _token(
    row: _Row,
    token_id: int,
    highest: float,
    score: float,
    logprobs: TokenLogprobs | None,
) -> SlotToken:
    """Make a token of what was fetched, or an error if the scores are no numbers."""
    if -torch.inf < highest < torch.inf and score == -torch.inf:
        return SlotToken(
            _NO_TOKEN,
            error=(
                f"Nothing is allowed as new token {row.generated + 1}: the request's "
                "fields forbid every token, so its logits are not finite."
            ),
        )
    for value, what in ((highest, "logits"), (score, "penalised logits")):
        if not -torch.inf < value < torch.inf:  # NaN too
            return SlotToken(
                _NO_TOKEN,
                error=(
                    f"The model's {what} for new token {row.generated + 1} are not "
                    f"finite: the highest is {value}. Nothing can be chosen."
                ),
            )
    return SlotToken(token_id, logprobs)
