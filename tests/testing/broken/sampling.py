# SPDX-License-Identifier: Apache-2.0

"""Engines that sample by wrong rules, or return wrong log-probabilities."""

from __future__ import annotations

import random

import attrs
import numpy as np

from unillm.engines.base import Capabilities, Capability, Support
from unillm.errors import InvalidParameterError
from unillm.testing.reference import (
    ReferenceScript,
    distribution,
    scores_after_rules,
)

from .bases import Own, Slots, broken


class Ignoring(Own):
    """Serves requests as if some fields had other values."""

    instead: dict = {}

    def token(self, request, position):
        return self.script(self.changed(request, **self.instead), position)


@broken("S1")
class IsNeverGreedy(Own):
    """Draws at temperature 0 too, among the top_k tokens."""

    def token(self, request, position):
        if request.params.greedy and request.params.top_k:
            wild = self.changed(request, temperature=2.0, top_p=1.0, top_k=2, min_p=0.0)
            return self.script(wild, position)
        return super().token(request, position)


@broken("S2", "S3 T11")
class IgnoresTheSeed(Own):
    """Draws with numbers that do not repeat."""

    drawn = 0

    def add_request(self, request):
        type(self).drawn += 1
        super().add_request(self.changed(request, seed=10_000 + self.drawn))


@broken("S3", "T11")
class SeedDependsOnTheSlot(Slots):
    """Draws other numbers in another slot."""

    def token(self, request, position):
        seed = request.seed + 1000 * self.slot_of(request)
        return self.script(self.changed(request, seed=seed), position)


@broken("S3", "S4 T11")
class SharesRandomState(Own):
    """Draws for all rows from one generator, seeded by the first request."""

    def token(self, request, position):
        first = next(iter(self._running.values())).request
        return self.script(self.changed(request, seed=first.seed), position)


@broken("S4", "P3 S5 S6 S7 S8 S16 T11")
class HasOneSeed(Ignoring):
    """Draws the tokens of seed 1 for every seed."""

    instead = {"seed": 1}


@broken("S19")
class CutsTheSeed(Own):
    """Draws with the lowest 32 bits of a seed."""

    def token(self, request, position):
        short = self.changed(request, seed=request.seed % 2**32)
        return self.script(short, position)


@broken("S5", "S7 S8 S16")
class IgnoresTheTemperature(Own):
    """Draws at temperature 1, whatever the request says."""

    def token(self, request, position):
        if request.params.greedy:
            return super().token(request, position)
        return self.script(self.changed(request, temperature=1.0), position)


@broken("S6")
class IgnoresTopK(Ignoring):
    """Draws from all tokens under `top_k`."""

    instead = {"top_k": 0}


@broken("S7")
class IgnoresTopP(Ignoring):
    """Draws from all tokens under `top_p`."""

    instead = {"top_p": 1.0}


@broken("S8")
class IgnoresMinP(Ignoring):
    """Draws from all tokens under `min_p`."""

    instead = {"min_p": 0.0}


@broken("S9")
class PenalisesPresenceEachTime(Own):
    """Subtracts `presence_penalty` once per occurrence."""

    def token(self, request, position):
        params = request.params
        changed = self.changed(
            request,
            frequency_penalty=params.frequency_penalty + params.presence_penalty,
            presence_penalty=0.0,
        )
        return self.script(changed, position)


class PenalisesThePrompt(ReferenceScript):
    """Counts the tokens of the prompt as generated."""

    def scores(self, request, generated):
        scores = super().scores(request, generated)
        params = request.params
        for token_id in request.prompt_token_ids:
            scores[token_id] -= params.frequency_penalty + params.presence_penalty
        return scores


@broken("S10", "S9")
class CountsThePromptsTokens(Own):
    """Penalises tokens of the prompt as if they were generated."""

    reference = PenalisesThePrompt


@broken("S10")
class PenalisesFrequencyOnce(Own):
    """Subtracts `frequency_penalty` once, however often a token was generated."""

    def token(self, request, position):
        params = request.params
        changed = self.changed(
            request,
            presence_penalty=params.frequency_penalty + params.presence_penalty,
            frequency_penalty=0.0,
        )
        return self.script(changed, position)


class SparesThePrompt(ReferenceScript):
    """Applies the repetition penalty to generated tokens alone."""

    def scores(self, request, generated):
        alone = attrs.evolve(request, prompt_token_ids=())
        logits = self.model.logits([*request.prompt_token_ids, *generated])
        if request.grammar is not None:
            return super().scores(request, generated)
        return scores_after_rules(logits, alone, generated)


@broken("S11")
class RepetitionSparesThePrompt(Own):
    """Applies `repetition_penalty` to the completion alone."""

    reference = SparesThePrompt


@broken("S12", "P8 S17")
class IgnoresBias(Ignoring):
    """Declares `logit_bias` and adds none."""

    instead = {"logit_bias": None}


@broken("S13", "C6 S17")
class AllowsEverything(Ignoring):
    """Declares `allowed_token_ids` and allows all."""

    instead = {"allowed_token_ids": None}


@broken("S14", "S17 S18 T15")
class GeneratesBadWords(Ignoring):
    """Declares `bad_words` and generates them."""

    instead = {"bad_words_token_ids": ()}


@broken("S14")
class BansTheLastIds(Own):
    """Bans the last id of a bad word everywhere."""

    def token(self, request, position):
        ids = tuple((each[-1],) for each in request.bad_words_token_ids)
        return self.script(self.changed(request, bad_words_token_ids=ids), position)


@broken("S18", "S17")
class BansTheNextId(Own):
    """Bans the id after the one of a bad word."""

    def token(self, request, position):
        ids = tuple(
            (each[0] + 1,) if len(each) == 1 else each
            for each in request.bad_words_token_ids
        )
        return self.script(self.changed(request, bad_words_token_ids=ids), position)


@broken("S16")
class SharesTheTemperature(Own):
    """Draws at the temperature of the row that was added first."""

    def token(self, request, position):
        first = next(iter(self._running.values())).request.params
        if request.params.greedy or first.greedy:
            return super().token(request, position)
        warm = self.changed(request, temperature=first.temperature)
        return self.script(warm, position)


@broken("S17")
class SharesTheBias(Own):
    """Adds the biases of one row to the logits of all."""

    def token(self, request, position):
        biases = [
            each.request.params.logit_bias
            for each in self._running.values()
            if each.request.params.logit_bias
        ]
        if biases and not request.params.logit_bias:
            request = self.changed(request, logit_bias=biases[0])
        return self.script(request, position)


@broken("S6")
class FlattensWhatItKeeps(Own):
    """Draws the tokens that a filter keeps equally often."""

    def token(self, request, position):
        params = request.params
        filtered = params.top_k > 0 or params.top_p < 1 or params.min_p > 0
        if filtered and not params.greedy:
            kept = np.flatnonzero(distribution(self.script.scores(request, ()), params))
            chosen = random.Random(request.seed).choice(kept.tolist())
            request = self.changed(request, allowed_token_ids=[chosen])
        return self.script(request, position)


@broken("S15")
class WarmsTheNeighbours(Own):
    """Samples for a greedy request too beside one that samples."""

    def token(self, request, position):
        wild = any(not r.request.params.greedy for r in self._running.values())
        if request.params.greedy and wild:
            warm = self.changed(request, temperature=2.0, min_p=0.0001)
            return self.script(warm, position)
        return super().token(request, position)


@broken("T14")
class ForgetsTheGrammar(Ignoring):
    """Declares structured outputs and applies no grammar."""

    instead = {"grammar": None}


# ------------------------------------------------------------------ log-probabilities


class ChangesLogprobs(Own):
    """Returns changed log-probabilities."""

    def wrong(self, request, at):
        raise NotImplementedError

    def token(self, request, position):
        token = super().token(request, position)
        if token.logprobs is None:
            return token
        return attrs.evolve(token, logprobs=self.wrong(request, token.logprobs))


@broken("P1")
class ReturnsLogprobsToAll(Own):
    """Returns log-probabilities for all requests, if one has asked."""

    def _next(self, row):
        asked = [
            each.request.params.logprobs
            for each in self._running.values()
            if each.request.params.logprobs is not None
        ]
        own = row.request
        if asked and own.params.logprobs is None:
            row.request = self.changed(own, logprobs=asked[0])
        output = super()._next(row)
        row.request = own
        return output


@broken("P1", "P3 P8")
class ForgetsTheLastLogprobs(Own):
    """Has no log-probabilities for the token that ends a request."""

    def _next(self, row):
        output = super()._next(row)
        return attrs.evolve(output, logprobs=None) if output.stop_token_id else output


@broken("P2", "P5 P8")
class RoundsLogprobs(ChangesLogprobs):
    """Rounds log-probabilities to two digits after the point."""

    def wrong(self, request, at):
        return attrs.evolve(at, logprob=round(at.logprob, 2))


@broken("P3")
class CountsRanksFromZero(ChangesLogprobs):
    """Gives the most probable token rank 0."""

    def wrong(self, request, at):
        return attrs.evolve(at, rank=at.rank - 1)


@broken("P3")
class RanksOnlyTheTop(ChangesLogprobs):
    """Ranks a token among the returned ones."""

    def wrong(self, request, at):
        return attrs.evolve(at, rank=min(at.rank, len(at.top_ids) + 1))


@broken("P4", "P6 P8")
class SortsTheTopById(ChangesLogprobs):
    """Returns the most probable tokens in the order of their ids."""

    def wrong(self, request, at):
        pairs = sorted(zip(at.top_ids, at.top_logprobs, strict=True))
        return attrs.evolve(
            at,
            top_ids=tuple(each for each, _ in pairs),
            top_logprobs=tuple(each for _, each in pairs),
        )


@broken("P4", "P5 P6 P8 T10")
class ReturnsOneMore(ChangesLogprobs):
    """Adds the chosen token to the most probable ones."""

    def wrong(self, request, at):
        return attrs.evolve(
            at,
            top_ids=(*at.top_ids, 3),
            top_logprobs=(*at.top_logprobs, -99.0),
        )


@broken("P5")
class ReturnsProcessedLogprobs(ChangesLogprobs):
    """Returns log-probabilities after the temperature."""

    def wrong(self, request, at):
        temperature = request.params.temperature
        if request.params.greedy:
            return at
        return attrs.evolve(at, logprob=at.logprob / temperature)


@broken("P8")
class ReturnsChangedLogprobs(ChangesLogprobs):
    """Returns log-probabilities of the logits with the bias in them."""

    def wrong(self, request, at):
        if not request.params.logit_bias:
            return at
        return attrs.evolve(at, logprob=at.logprob - 1.0)


@broken("P6")
class ReturnsTwenty(Ignoring):
    """Returns twenty tokens where the request asked for the whole vocabulary."""

    def token(self, request, position):
        if request.params.logprobs == -1:
            request = self.changed(request, logprobs=20)
        return self.script(request, position)


@broken("P7", "G6")
class ReturnsTheFirstPromptToken(Own):
    """Returns log-probabilities of all prompt tokens, the first included."""

    def __init__(self, config):
        super().__init__(config)
        own = self._prompt_script
        self._prompt_script = lambda request: (
            None if (found := own(request)) is None else [found[0], *found]
        )


@broken("P7")
class ReturnsThePromptAtTheEnd(Own):
    """Returns the log-probabilities of the prompt with the last new id."""

    def _next(self, row):
        output = super()._next(row)
        found = self._prompt_script(row.request) if output.finish_reason else None
        return attrs.evolve(output, prompt_logprobs=found)


# ----------------------------------------------------------------------- declarations


@broken("G6", "P7")
class RefusesWhatItDeclares(Own):
    """Declares log-probabilities of prompts and refuses them."""

    def add_request(self, request):
        if request.params.prompt_logprobs is not None:
            raise InvalidParameterError("not here", parameter="prompt_logprobs")
        super().add_request(request)


@broken("L7")
class NamesNoReason(Own):
    """Gives no reason for an unsupported field."""

    capabilities = Capabilities(
        fields={"min_p": Capability(support=Support.UNSUPPORTED)}
    )


@broken("L7")
class DeclaresAnUnknownField(Own):
    """Declares a field that does not exist."""

    capabilities = Capabilities(
        fields={"mojo": Capability(support=Support.EMULATED, reason="it has it")}
    )
