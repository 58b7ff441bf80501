# SPDX-License-Identifier: Apache-2.0

"""Engines with defects of log-probabilities."""

from __future__ import annotations

import attrs
from testing.broken.bases import Own

from .bases import subtle


class OtherLogprobs(Own):
    def token(self, request, position):
        token = super().token(request, position)
        if token.logprobs is None:
            return token
        return attrs.evolve(token, logprobs=self.wrong(request, token.logprobs))


@subtle("the logprob of")
class LogprobsAfterPenalties(OtherLogprobs):
    """Returns log-probabilities after penalties."""

    def wrong(self, request, at):
        if request.params.presence_penalty <= 0:
            return at
        return attrs.evolve(at, logprob=at.logprob - request.params.presence_penalty)


@subtle("the rank of")
class RanksWithinTwenty(OtherLogprobs):
    """Knows no rank above twenty."""

    def wrong(self, request, at):
        return attrs.evolve(at, rank=min(at.rank, 21))


@subtle("top_ids")
class ReturnsTheChosenTwice(OtherLogprobs):
    """Adds the chosen token to the most probable ones if it is not among them."""

    def wrong(self, request, at):
        if at.rank <= len(at.top_ids):
            return at
        return attrs.evolve(
            at,
            top_ids=(*at.top_ids, 3),
            top_logprobs=(*at.top_logprobs, at.logprob),
        )
