# SPDX-License-Identifier: Apache-2.0

"""`Sampler`: the next token of every row, by the sampling fields of its request.

The order is vLLM's: log-probabilities of the raw logits; masks (grammar,
`allowed_token_ids`, `bad_words`, EOS tokens before `min_tokens`); `logit_bias`;
penalties; temperature; min_p; top_k; top_p; the draw. A greedy row takes the best token
after the penalties. An engine may ask for the log-probabilities after the filters.

A step computes only what one of its rows asks for. Its tokens stay on the device until
they are read, and the host waits for the device once. All state belongs to a slot and
goes with its release.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import attrs
import torch
from torch import Tensor

from ..engines.base import EngineRequest, TokenLogprobs
from ..engines.slots import SlotToken
from ..params import SamplingParams
from . import filters, noise
from .fetch import Fetch, send
from .logprobs import LogprobsFetch, LogprobsMode
from .penalties import PenaltyCounts
from .row import Row, checked, token_of
from .seeds import keys_of

_BYTE = torch.uint8

_CACHED = 2**17
"""Numbers that a draw on the CPU makes at a time, so that they stay in its cache."""


@attrs.frozen(eq=False)
class Choice:
    """The tokens that a step chose."""

    token_ids: Tensor
    """``[rows]``, int64, on the device; any id for a row without a token."""
    read: Callable[[], list[SlotToken]]
    """Waits for the device, and returns one token for each row; called once.

    A row has an error instead if its logits hold NaN or ``+inf``, or if its request
    forbids every token; the other rows do not depend on it.
    """


class Sampler:
    """Samples tokens for the requests of an engine's slots.

    Any thread may call it, one at a time.

    Args:
        num_slots: Number of slots.
        vocab_size: Columns of the logits.
        device: Device of the logits.
        logprobs_mode: What `SamplingParams.logprobs` returns.
    """

    def __init__(
        self,
        *,
        num_slots: int,
        vocab_size: int,
        device: torch.device,
        logprobs_mode: LogprobsMode = "raw_logprobs",
    ) -> None:
        self._vocab_size = vocab_size
        self._logprobs_mode = logprobs_mode
        self._device = device
        self._rows: dict[int, Row] = {}  # by slot
        self._numbers = noise.spread(vocab_size, device)
        self._penalties = PenaltyCounts(
            num_slots=num_slots, vocab_size=vocab_size, device=device
        )

    def assign(
        self, slot: int, request: EngineRequest, *, generated: Sequence[int] = ()
    ) -> None:
        """Assign a free slot to a request.

        Args:
            slot: A slot without a request.
            request: Its sampling fields and its seed.
            generated: New tokens that it already has, if it continues from another
                slot. They are not part of its prompt.
        """
        assert slot not in self._rows, "a held slot was given away"
        row = Row(
            slot,
            request,
            banned=self._banned(request.params),
            grammar=None if request.grammar is None else request.grammar.start(),
        )
        for token_id in generated:
            row.count()
            row.accept(token_id)
        self._rows[slot] = row
        if row.penalised:
            with torch.inference_mode():
                self._penalties.begin(slot, request.prompt_token_ids, generated)

    def release(self, slot: int) -> None:
        """Drop the slot's request and its state."""
        row = self._rows.pop(slot)
        if row.penalised:
            with torch.inference_mode():
                self._penalties.forget(slot)

    def close(self) -> None:
        """Drop all requests and free the memory."""
        self._rows.clear()
        self._penalties.free()

    def sample(
        self, logits: Tensor, slots: Sequence[int], *, best: Tensor | None = None
    ) -> list[SlotToken]:
        """Choose one token for each row (`choose`), and read them."""
        return self.choose(logits, slots, best=best).read()

    def choose(
        self, logits: Tensor, slots: Sequence[int], *, best: Tensor | None = None
    ) -> Choice:
        """Choose one token for each row.

        Tokens whose choice depends on the ids of those before, by a grammar or by bad
        words of several tokens, need these to be read first.

        Args:
            logits: ``[rows, vocab]``, any floating type; not changed.
            slots: The slot of each row; each has a request.
            best: `best_of` the logits, if the caller has computed it.

        Returns:
            One token for each row, in the order of *slots*.
        """
        rows = [self._rows[slot] for slot in slots]
        with torch.inference_mode():
            if all(row.plain and not row.masks_stops for row in rows):
                return self._take_best(best_of(logits) if best is None else best, rows)
            return self._choose(logits.float(), rows)

    def _take_best(self, best: Tensor, rows: Sequence[Row]) -> Choice:
        fetch = Fetch()
        fetch.add(best)
        fetch.start()
        numbers = [row.count() for row in rows]

        def read() -> list[SlotToken]:
            # NaN wins a maximum, so the best score shows whether all are finite.
            [(scores, ids)] = fetch.read()
            return [
                token_of(number, int(token_id), score, score, None)
                for number, token_id, score in zip(numbers, ids, scores, strict=True)
            ]

        return Choice(best[1].long(), read)

    def _choose(self, logits: Tensor, rows: Sequence[Row]) -> Choice:
        scores = self._mask_grammar(logits, rows)
        scores = self._mask_banned(scores, rows)
        scores = self._mask_ids(scores, [row.completing_ids() for row in rows])
        scores = self._mask_stops(scores, rows)
        scores = self._add_bias(scores, rows)
        scores = self._penalise(scores, rows)
        best, chosen = scores.max(dim=-1)
        drawing = [index for index, row in enumerate(rows) if not row.params.greedy]
        weights = self._weigh(scores, best, rows, drawing)
        chosen = self._draw(weights, chosen, rows, drawing)
        self._count(chosen, rows)
        fetch = Fetch()
        fetch.add(torch.stack([chosen.double(), logits.amax(-1).double(), best], 1))
        counts = [row.params.logprobs for row in rows]
        mode = self._logprobs_mode
        if mode.startswith("processed") and any(each is not None for each in counts):
            logits = self._processed(scores, weights, rows, drawing)
        labels = [row.request.logprob_token_ids for row in rows]
        logprobs = LogprobsFetch(
            fetch, logits, chosen, counts, labels=labels, mode=mode
        )
        fetch.start()
        numbers = [row.count() for row in rows]

        def read() -> list[SlotToken]:
            fetched = fetch.read()
            by_row = logprobs.read(fetched)
            return [
                _accept(row, number, of_row, by_row.get(index))
                for index, (row, number, of_row) in enumerate(
                    zip(rows, numbers, fetched[0], strict=True)
                )
            ]

        return Choice(chosen, read)

    # ---------------------------------------------------------- each rule, in its order

    def _mask_grammar(self, scores: Tensor, rows: Sequence[Row]) -> Tensor:
        """Mask what the grammars forbid, for all rows at once."""
        # The device may still compute the logits meanwhile.
        masks = {
            index: row.grammar.allowed()
            for index, row in enumerate(rows)
            if row.grammar is not None
        }
        if not masks:
            return scores
        packed = torch.frombuffer(bytearray(b"".join(masks.values())), dtype=_BYTE)
        packed = packed.view(len(masks), -1, 1).to(self._device, non_blocking=True)
        bits = packed >> torch.arange(8, dtype=_BYTE, device=self._device) & 1
        forbidden = bits.view(len(masks), -1)[:, : self._vocab_size] == 0
        return self._change(
            scores, list(masks), lambda part: part.masked_fill_(forbidden, -torch.inf)
        )

    def _banned(self, params: SamplingParams) -> Tensor | None:
        if params.allowed_token_ids is None:
            return None
        with torch.inference_mode():
            banned = torch.ones(self._vocab_size, dtype=torch.bool, device=self._device)
            return banned.index_fill_(
                0, self._tensor(params.allowed_token_ids), value=False
            )

    def _mask_banned(self, scores: Tensor, rows: Sequence[Row]) -> Tensor:
        """Mask all but the `allowed_token_ids`."""
        masks = {
            index: row.banned
            for index, row in enumerate(rows)
            if row.banned is not None
        }
        if not masks:
            return scores
        banned = torch.stack(list(masks.values()))
        return self._change(
            scores, list(masks), lambda part: part.masked_fill_(banned, -torch.inf)
        )

    def _mask_stops(self, scores: Tensor, rows: Sequence[Row]) -> Tensor:
        """Mask EOS tokens before `min_tokens`, but where a grammar allows no others."""
        masked = self._mask_ids(scores, [row.early_ids() for row in rows])
        bound = [i for i, row in enumerate(rows) if row.grammar and row.masks_stops]
        if not bound:
            return masked
        index = self._tensor(bound)
        left = masked.index_select(0, index)
        complete = (left == -torch.inf).all(-1, keepdim=True)
        left = left.where(~complete, scores.index_select(0, index))
        return masked.index_copy(0, index, left)

    def _mask_ids(self, scores: Tensor, ids: Sequence[Iterable[int]]) -> Tensor:
        """Mask token ids, those of each row."""
        masked = [
            (index, token_id)
            for index, of_row in enumerate(ids)
            for token_id in of_row
            if token_id < self._vocab_size
        ]
        if not masked:
            return scores
        where = self._tensor(masked).unbind(1)
        return scores.index_put(where, torch.full((), -torch.inf, device=self._device))

    def _add_bias(self, scores: Tensor, rows: Sequence[Row]) -> Tensor:
        biases = [
            (index, token_id, bias)
            for index, row in enumerate(rows)
            for token_id, bias in row.params.logit_bias.items()
        ]
        if not biases:
            return scores
        where = self._tensor([(index, token_id) for index, token_id, _ in biases])
        numbers = self._tensor([bias for *_, bias in biases], torch.float32)
        return scores.index_put(where.unbind(1), numbers, accumulate=True)

    def _penalise(self, scores: Tensor, rows: Sequence[Row]) -> Tensor:
        penalised = [index for index, row in enumerate(rows) if row.penalised]
        if not penalised:
            return scores
        slots = self._tensor([rows[index].slot for index in penalised])
        params = [rows[index].params for index in penalised]
        numbers = self._tensor(
            [
                (p.repetition_penalty, p.frequency_penalty, p.presence_penalty)
                for p in params
            ],
            torch.float32,
        )
        repetition, frequency, presence = numbers.unbind(1)
        return self._change(
            scores,
            penalised,
            lambda part: self._penalties.apply(
                part,
                slots,
                repetition=repetition,
                frequency=frequency,
                presence=presence,
            ),
        )

    def _weigh(
        self,
        scores: Tensor,
        best: Tensor,
        rows: Sequence[Row],
        drawing: Sequence[int],
    ) -> Tensor:
        """Return the weights ``[drawing, vocab]``: 0 where a filter drops a token."""
        if not drawing:
            return scores[:0]
        index = self._tensor(drawing)
        scores = scores.index_select(0, index)
        params = [rows[each].params for each in drawing]
        weights = filters.weigh(
            scores, best.index_select(0, index), self._temperatures(params)
        )
        return self._filter(weights, scores, params)

    def _temperatures(self, params: Sequence[SamplingParams]) -> Tensor:
        return self._tensor([each.temperature for each in params], torch.float32)

    def _draw(
        self,
        weights: Tensor,
        chosen: Tensor,
        rows: Sequence[Row],
        drawing: Sequence[int],
    ) -> Tensor:
        """Replace the best token by a drawn one in the rows that are not greedy."""
        if not drawing:
            return chosen
        keys = [
            keys_of(rows[each].request.seed, rows[each].generated) for each in drawing
        ]
        rows_at_once = len(keys)
        if self._device.type == "cpu":
            rows_at_once = max(1, _CACHED // self._vocab_size)
        drawn = [
            filters.draw(part, noise.exponential_clocks(part_keys, self._numbers))
            for part, part_keys in zip(
                torch.split(weights, rows_at_once),
                torch.split(self._tensor(keys, torch.int32), rows_at_once),
                strict=True,
            )
        ]
        return chosen.index_copy(0, self._tensor(drawing), torch.cat(drawn))

    def _processed(
        self,
        scores: Tensor,
        weights: Tensor,
        rows: Sequence[Row],
        drawing: Sequence[int],
    ) -> Tensor:
        """Return the scores after temperature and filters, of rows that draw."""
        if not drawing:
            return scores
        params = [rows[each].params for each in drawing]
        temperatures = self._temperatures(params)[:, None]
        filtered = [p.min_p > 0 or p.top_k > 0 or p.top_p < 1 for p in params]
        # Without a filter, a weight of 0 is a probability that float32 cannot hold.
        dropped = (weights == 0) & self._tensor(filtered, torch.bool)[:, None]
        return self._change(
            scores,
            drawing,
            lambda part: (part / temperatures).masked_fill(dropped, -torch.inf),
        )

    def _count(self, chosen: Tensor, rows: Sequence[Row]) -> None:
        penalised = [index for index, row in enumerate(rows) if row.penalised]
        if penalised:
            slots = self._tensor([rows[index].slot for index in penalised])
            self._penalties.add(slots, chosen.index_select(0, self._tensor(penalised)))

    def _filter(
        self, weights: Tensor, scores: Tensor, params: Sequence[SamplingParams]
    ) -> Tensor:
        """Apply each filter to the rows that ask for it."""
        if any(p.min_p for p in params):
            min_p = self._tensor([p.min_p for p in params], torch.float32)
            weights = filters.keep_min_p(weights, min_p)
        few = [i for i, p in enumerate(params) if 0 < p.top_k < self._vocab_size]
        if few:
            best = scores.index_select(0, self._tensor(few))
            top_k = [params[index].top_k for index in few]
            weights = self._change(
                weights, few, lambda part: filters.keep_top_k(part, best, top_k)
            )
        nucleus = [i for i, p in enumerate(params) if p.top_p < 1.0]
        if nucleus:
            top_p = self._tensor([params[i].top_p for i in nucleus], torch.float64)
            weights = self._change(
                weights, nucleus, lambda part: filters.keep_top_p(part, top_p)
            )
        return weights

    def _change(
        self, scores: Tensor, rows: Sequence[int], change: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Return a copy of *scores* with some of its rows replaced.

        Args:
            scores: ``[rows, vocab]``.
            rows: Indices of the rows.
            change: Takes a copy of these rows, and returns what replaces them.
        """
        index = self._tensor(rows)
        return scores.index_copy(0, index, change(scores.index_select(0, index)))

    def _tensor(
        self, values: Sequence[object], dtype: torch.dtype = torch.int64
    ) -> Tensor:
        return send(values, self._device, dtype)


def _accept(
    row: Row, number: int, chosen: Sequence[float], logprobs: TokenLogprobs | None
) -> SlotToken:
    """Return a row's token, given its id, highest logit and score; record it."""
    token_id, highest, score = chosen
    token = token_of(number, int(token_id), highest, score, logprobs)
    if token.error is None:
        row.accept(token.token_id)
    return checked(row, token)


def best_of(logits: Tensor) -> Tensor:
    """Return ``[2, rows]``, float64: each row's highest logit and its id."""
    best, chosen = logits.max(dim=-1)
    return torch.stack([best.double(), chosen.double()])
