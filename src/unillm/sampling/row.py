# SPDX-License-Identifier: Apache-2.0

"""`Row`: the state of a request while its tokens are sampled, without tensors."""

from __future__ import annotations

import math
from typing import Any

import attrs

from ..engines.base import EngineRequest, TokenGrammarState, TokenLogprobs
from ..engines.slots import SlotToken
from ..params import SamplingParams


@attrs.define(eq=False)
class Row:
    """The request of a slot, and its state."""

    slot: int
    request: EngineRequest
    generated: int = 0
    banned: Any = None
    """``[vocab]``: true for the ids that `allowed_token_ids` leaves out; or `None`."""
    recent: list[int] = attrs.field(factory=list)
    """The last new tokens, as many as `bad_words` need."""
    grammar: TokenGrammarState | None = None
    plain: bool = attrs.field(init=False)
    """Whether the row takes its highest logit, except before `min_tokens`."""

    @plain.default
    def _is_plain(self) -> bool:
        return (
            self.params.greedy
            and self.params.logprobs is None
            and self.banned is None
            and self.grammar is None
            and not self.request.bad_words_token_ids
            and not self.params.logit_bias
            and not self.penalised
        )

    @property
    def params(self) -> SamplingParams:
        """The fields of the request."""
        return self.request.params

    @property
    def penalised(self) -> bool:
        """Whether a penalty changes its scores."""
        params = self.params
        return bool(
            params.repetition_penalty != 1.0
            or params.frequency_penalty
            or params.presence_penalty
        )

    @property
    def masks_stops(self) -> bool:
        """Whether it may not end yet."""
        return self.generated < self.params.min_tokens

    def completing_ids(self) -> set[int]:
        """Return the ids that would complete a bad word."""
        return {
            last
            for *before, last in self.request.bad_words_token_ids
            if not before or self.recent[-len(before) :] == before
        }

    def early_ids(self) -> frozenset[int]:
        """Return the ids that would end the request too soon."""
        return self.request.stop_token_ids if self.masks_stops else frozenset()

    def count(self) -> int:
        """Count a new token, whose id may not be known yet; return its number."""
        self.generated += 1
        return self.generated

    def accept(self, token_id: int) -> None:
        """Record the id of a new token."""
        if self.request.bad_words_token_ids:
            longest = max(map(len, self.request.bad_words_token_ids))
            self.recent = [*self.recent, token_id][-longest:]
        if self.grammar is not None:
            self.grammar.accept(token_id)


def checked(row: Row, token: SlotToken) -> SlotToken:
    """Return the token, or an error if the row's grammar has failed."""
    if row.grammar is None or not row.grammar.error:
        return token
    return failed(
        f"structured_outputs failed at new token {row.generated}: "
        f"{row.grammar.error}. Simplify the grammar or the schema."
    )


def token_of(
    number: int,
    token_id: int,
    highest: float,
    score: float,
    logprobs: TokenLogprobs | None,
) -> SlotToken:
    """Return the chosen token, or an error if a score is not finite.

    Args:
        number: The token is so many-th of its request.
        token_id: The token.
        highest: The row's highest logit.
        score: The token's score.
        logprobs: If the request asks for them.
    """
    if -math.inf < highest < math.inf and score == -math.inf:
        return failed(
            f"The request's fields forbid every token as new token {number}, so its "
            "logits are not finite."
        )
    for value, name in ((highest, "logits"), (score, "penalised logits")):
        if not -math.inf < value < math.inf:  # NaN too
            return failed(
                f"The model's {name} for new token {number} are not finite: the "
                f"highest is {value}. No token can be chosen."
            )
    return SlotToken(token_id, logprobs)


def failed(error: str) -> SlotToken:
    """Return an error in place of a token."""
    return SlotToken(-1, error=error)
