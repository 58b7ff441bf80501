# SPDX-License-Identifier: Apache-2.0

"""Engines that choose by other rules than the request's, or tell other odds."""

from __future__ import annotations

import attrs

from unillm.engines.base import Capabilities, Capability, Support
from unillm.errors import InvalidParameterError
from unillm.testing.reference import ReferenceScript, scores_after_rules

from .bases import Own, Slots, broken


class Ignoring(Own):
    """Serves requests as if some fields had other values."""

    instead: dict = {}

    def say(self, request, position):
        return self.script(self.changed(request, **self.instead), position)


@broken("S1")
class IsNeverGreedy(Own):
    """Draws at temperature 0 too, among the best that top_k leaves."""

    def say(self, request, position):
        if request.params.greedy and request.params.top_k:
            wild = self.changed(request, temperature=2.0, top_p=1.0, top_k=2, min_p=0.0)
            return self.script(wild, position)
        return super().say(request, position)


@broken("S2", "S3 T11")
class IgnoresTheSeed(Own):
    """Draws with numbers that nobody can have again."""

    drawn = 0

    def add_request(self, request):
        type(self).drawn += 1
        super().add_request(self.changed(request, seed=10_000 + self.drawn))


@broken("S3", "T11")
class SeedDependsOnTheSlot(Slots):
    """Draws other numbers in another slot."""

    def say(self, request, position):
        seed = request.seed + 1000 * self.slot_of(request)
        return self.script(self.changed(request, seed=seed), position)


@broken("S3", "P3 S4 T11")
class SharesRandomState(Own):
    """Draws for all rows from one generator, seeded by the first request."""

    def say(self, request, position):
        first = next(iter(self._running.values())).request
        return self.script(self.changed(request, seed=first.seed), position)


@broken("S4", "P3 S5 S6 S7 S8 T11")
class HasOneSeed(Ignoring):
    """Draws for every seed what seed 1 draws."""

    instead = {"seed": 1}


@broken("S5", "T11")
class IgnoresTheTemperature(Own):
    """Draws at temperature 1, whatever was asked."""

    def say(self, request, position):
        if request.params.greedy:
            return super().say(request, position)
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
    """Takes `presence_penalty` for each time that a token came."""

    def say(self, request, position):
        params = request.params
        changed = self.changed(
            request,
            frequency_penalty=params.frequency_penalty + params.presence_penalty,
            presence_penalty=0.0,
        )
        return self.script(changed, position)


class PenalisesThePrompt(ReferenceScript):
    """Counts the prompt's tokens to those that were generated."""

    def scores(self, request, generated):
        scores = super().scores(request, generated)
        params = request.params
        for token_id in request.prompt_token_ids:
            scores[token_id] -= params.frequency_penalty + params.presence_penalty
        return scores


@broken("S10", "S9")
class CountsThePromptsTokens(Own):
    """Penalises what the prompt has as if it had been generated."""

    reference = PenalisesThePrompt


@broken("S10")
class PenalisesFrequencyOnce(Own):
    """Takes `frequency_penalty` once, however often a token came."""

    def say(self, request, position):
        params = request.params
        changed = self.changed(
            request,
            presence_penalty=params.frequency_penalty + params.presence_penalty,
            frequency_penalty=0.0,
        )
        return self.script(changed, position)


class SparesThePrompt(ReferenceScript):
    """Applies the repetition penalty to what was generated alone."""

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


@broken("S12")
class IgnoresBias(Ignoring):
    """Declares `logit_bias` and adds none."""

    instead = {"logit_bias": None}


@broken("S13", "C6")
class AllowsEverything(Ignoring):
    """Declares `allowed_token_ids` and allows all."""

    instead = {"allowed_token_ids": None}


@broken("S14", "T15")
class SaysBadWords(Ignoring):
    """Declares `bad_words` and says them."""

    instead = {"bad_words_token_ids": ()}


@broken("S14")
class BansTheLastIds(Own):
    """Bans the last id of a bad word wherever it stands."""

    def say(self, request, position):
        ids = tuple((each[-1],) for each in request.bad_words_token_ids)
        return self.script(self.changed(request, bad_words_token_ids=ids), position)


@broken("S15")
class WarmsTheNeighbours(Own):
    """Draws for a greedy request too while another one draws beside it."""

    def say(self, request, position):
        wild = any(not r.request.params.greedy for r in self._running.values())
        if request.params.greedy and wild:
            warm = self.changed(request, temperature=2.0, min_p=0.0001)
            return self.script(warm, position)
        return super().say(request, position)


@broken("T14")
class ForgetsTheGrammar(Ignoring):
    """Declares structured outputs and applies no grammar."""

    instead = {"grammar": None}


# ------------------------------------------------------------------ log-probabilities


class Telling(Own):
    """Tells something else of the log-probabilities than they are."""

    def wrong(self, request, at):
        raise NotImplementedError

    def say(self, request, position):
        token = super().say(request, position)
        if token.logprobs is None:
            return token
        return attrs.evolve(token, logprobs=self.wrong(request, token.logprobs))


@broken("P1")
class TellsEveryoneLogprobs(Own):
    """Tells log-probabilities to all, if one has asked."""

    def _say(self, row):
        asked = [
            each.request.params.logprobs
            for each in self._running.values()
            if each.request.params.logprobs is not None
        ]
        own = row.request
        if asked and own.params.logprobs is None:
            row.request = self.changed(own, logprobs=asked[0])
        output = super()._say(row)
        row.request = own
        return output


@broken("P1", "P3")
class ForgetsTheLastLogprobs(Own):
    """Has no log-probabilities for the token that ends a request."""

    def _say(self, row):
        output = super()._say(row)
        return attrs.evolve(output, logprobs=None) if output.stop_token_id else output


@broken("P2", "P5")
class TellsTwoDigits(Telling):
    """Rounds log-probabilities to two digits after the point."""

    def wrong(self, request, at):
        return attrs.evolve(at, logprob=round(at.logprob, 2))


@broken("P3", "T10")
class CountsRanksFromZero(Telling):
    """Gives the most probable token rank 0."""

    def wrong(self, request, at):
        return attrs.evolve(at, rank=at.rank - 1)


@broken("P3")
class RanksOnlyTheTop(Telling):
    """Ranks a token among those that it tells of."""

    def wrong(self, request, at):
        return attrs.evolve(at, rank=min(at.rank, len(at.top_ids) + 1))


@broken("P4", "P6")
class TellsTheTopInIdOrder(Telling):
    """Tells the most probable tokens in the order of their ids."""

    def wrong(self, request, at):
        pairs = sorted(zip(at.top_ids, at.top_logprobs, strict=True))
        return attrs.evolve(
            at,
            top_ids=tuple(each for each, _ in pairs),
            top_logprobs=tuple(each for _, each in pairs),
        )


@broken("P4", "P5 P6 T10")
class TellsOneMore(Telling):
    """Tells the chosen token as one more of the most probable ones."""

    def wrong(self, request, at):
        return attrs.evolve(
            at,
            top_ids=(*at.top_ids, 3),
            top_logprobs=(*at.top_logprobs, -99.0),
        )


@broken("P5")
class TellsProcessedLogprobs(Telling):
    """Tells log-probabilities after the temperature."""

    def wrong(self, request, at):
        temperature = request.params.temperature
        if request.params.greedy:
            return at
        return attrs.evolve(at, logprob=at.logprob / temperature)


@broken("P6")
class TellsTwenty(Ignoring):
    """Tells twenty tokens where the whole vocabulary was asked."""

    def say(self, request, position):
        if request.params.logprobs == -1:
            request = self.changed(request, logprobs=20)
        return self.script(request, position)


@broken("P7", "G6")
class TellsOfTheFirstToken(Own):
    """Tells of all tokens of a prompt, the first among them."""

    def __init__(self, config):
        super().__init__(config)
        own = self._prompt_script
        self._prompt_script = lambda request: (
            None if (told := own(request)) is None else [told[0], *told]
        )


@broken("P7")
class TellsOfThePromptAtTheEnd(Own):
    """Tells of the prompt with the last new id."""

    def _say(self, row):
        output = super()._say(row)
        told = self._prompt_script(row.request) if output.finish_reason else None
        return attrs.evolve(output, prompt_logprobs=told)


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
    """Does not say why a field is unsupported."""

    capabilities = Capabilities(
        fields={"min_p": Capability(support=Support.UNSUPPORTED)}
    )


@broken("L7")
class DeclaresWhatNobodyKnows(Own):
    """Declares a field that does not exist."""

    capabilities = Capabilities(
        fields={"mojo": Capability(support=Support.EMULATED, reason="it has it")}
    )
