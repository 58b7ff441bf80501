# SPDX-License-Identifier: Apache-2.0

"""Engines that are right for most requests, for the random run.

Each one breaks a rule that the clauses, one field at a time, would let pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import numpy as np

from unillm.engines.backend import Backend
from unillm.engines.base import Engine
from unillm.engines.slots import SlotToken
from unillm.scheduling.runs import RunScheduler
from unillm.testing.backends import ScriptedBackend, reference_script
from unillm.testing.batches import ScriptedBatchEngine
from unillm.testing.reference import ReferenceScript, distribution

from .bases import CAPABILITIES, Changes, Own


@attrs.frozen(kw_only=True)
class Subtle:
    """A backend with one defect."""

    name: str
    breaks: str
    make_engine: Callable[[Any], Engine]
    found_by: str
    """A pattern in the message of the random run."""

    def backend(self) -> Backend:
        return ScriptedBackend(
            self.make_engine, name=self.name.lower(), capabilities=CAPABILITIES
        )


SUBTLE: list[Subtle] = []

TOKEN = "score|not as frequent|logprob"
"""A token is wrong, which shows by itself or among many."""


def subtle(found_by: str):
    """Register an engine class, or a script on which `Own` runs.

    Args:
        found_by: A pattern in the message of the random run.
    """

    def register(defect):
        make = defect
        if issubclass(defect, ReferenceScript):
            script = defect(reference_script().model)
            make = type(defect.__name__, (Own,), {"reference": lambda _: script})
        elif not issubclass(defect, Engine):
            make = defect.scheduled
        SUBTLE.append(
            Subtle(
                name=defect.__name__,
                breaks=defect.__doc__,
                make_engine=make,
                found_by=found_by,
            )
        )
        return defect

    return register


PENALTIES = {
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
}


class OwnPenalties(ReferenceScript):
    """Applies penalties of its own after all other rules."""

    def __init__(self, model) -> None:
        super().__init__(model)
        self.changed = Changes().of

    def scores(self, request, generated):
        plain = self.changed(request, **PENALTIES)
        return self.penalise(super().scores(plain, generated), request, generated)

    def penalise(self, scores, request, generated):
        return self.by(scores, request.params, request.prompt_token_ids, generated)

    def by(self, scores, params, prompt, generated):
        """Apply the penalties of *params*, as they should be."""
        for token_id in {*prompt, *generated}:
            scores[token_id] = self.repeated(
                scores[token_id], params.repetition_penalty
            )
        for token_id in set(generated):
            count = list(generated).count(token_id)
            scores[token_id] -= (
                params.frequency_penalty * count + params.presence_penalty
            )
        return scores

    def repeated(self, score, factor):
        return score / factor if score > 0 else score * factor


class OwnFilters(ReferenceScript):
    """Draws by filters of its own."""

    def probabilities(self, scores, params):
        raise NotImplementedError


def softmax(scores):
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def nucleus(probabilities, top_p):
    """Keep the smallest set of *top_p*, without a new total."""
    best = np.sort(probabilities)[::-1]
    before = best.cumsum() - best
    last = best[before < top_p][-1]
    return np.where(probabilities < last, 0.0, probabilities)


# ---------------------------------------------------------------------------- penalties


class Runs(ScriptedBatchEngine):
    """A correct static batch, which knows what earlier runs generated."""

    def __init__(self, config) -> None:
        script = reference_script()
        super().__init__(
            self.token,
            max_rows=config.max_num_seqs,
            max_model_len=config.max_model_len,
            vocab_size=script.model.vocab_size,
            prompt_script=script.prompt_logprobs,
        )
        self.script = script
        self.changed = Changes().of
        self.earlier: dict[str, tuple[int, ...]] = {}

    def run(self, rows, *, max_new_tokens):
        self.earlier |= {row.request.request_id: row.generated for row in rows}
        return super().run(rows, max_new_tokens=max_new_tokens)

    def token(self, request, position):
        return self.script(request, position)

    @classmethod
    def scheduled(cls, config) -> Engine:
        engine = cls(config)
        return RunScheduler(engine, clock=engine.clock)


class _SinceTheRun(OwnPenalties):
    """Penalises only tokens of the present run."""

    def __init__(self, model, earlier) -> None:
        super().__init__(model)
        self.earlier = earlier

    def penalise(self, scores, request, generated):
        count = len(self.earlier.get(request.request_id, ()))
        prompt = (*request.prompt_token_ids, *generated[:count])
        return self.by(scores, request.params, prompt, generated[count:])


@subtle(TOKEN)
class PenaltiesBeginAnew(Runs):
    """Counts generated tokens from the last restart of a run."""

    def __init__(self, config) -> None:
        super().__init__(config)
        self.anew: dict[Any, ReferenceScript] = {}

    def token(self, request, position):
        key = request.request_id, len(self.earlier[request.request_id])
        if key not in self.anew:
            self.anew[key] = _SinceTheRun(self.script.model, dict(self.earlier))
        return self.anew[key](request, position)


@subtle(TOKEN)
class MinTokensBeginAnew(Runs):
    """Counts `min_tokens` from the last restart of a run."""

    def token(self, request, position):
        count = len(self.earlier[request.request_id])
        least = request.params.min_tokens
        if count and least:
            least = min(least + count, request.max_new_tokens)
            request = self.changed(request, min_tokens=least)
        return self.script(request, position)


@subtle(TOKEN)
class PenalisesAWindow(OwnPenalties):
    """Penalises only the last sixteen tokens."""

    def penalise(self, scores, request, generated):
        rest = 16 - len(generated)
        prompt = request.prompt_token_ids[-rest:] if rest > 0 else ()
        return self.by(scores, request.params, prompt, generated[-16:])


@subtle(TOKEN)
class DividesNegativeLogits(OwnPenalties):
    """Divides negative logits by the repetition penalty too."""

    def repeated(self, score, factor):
        return score / factor


@subtle(TOKEN)
class CountsThePromptOnce(OwnPenalties):
    """Subtracts `presence_penalty` from tokens of the prompt too."""

    def penalise(self, scores, request, generated):
        scores = super().penalise(scores, request, generated)
        for token_id in {*request.prompt_token_ids} - {*generated}:
            scores[token_id] -= request.params.presence_penalty
        return scores


@subtle(TOKEN)
class PenalisesAStepLate(OwnPenalties):
    """Penalises the tokens before the last one."""

    def penalise(self, scores, request, generated):
        prompt = request.prompt_token_ids
        return self.by(scores, request.params, prompt, generated[:-1])


@subtle(TOKEN)
class RewardsNothing(OwnPenalties):
    """Takes penalties below their neutral value for none."""

    def penalise(self, scores, request, generated):
        params = request.params
        held = attrs.evolve(
            params,
            presence_penalty=max(params.presence_penalty, 0),
            frequency_penalty=max(params.frequency_penalty, 0),
            repetition_penalty=max(params.repetition_penalty, 1),
        )
        return self.by(scores, held, request.prompt_token_ids, generated)


@subtle(TOKEN)
class RepeatsOnlyThePrompt(OwnPenalties):
    """Applies `repetition_penalty` to tokens of the prompt alone."""

    def by(self, scores, params, prompt, generated):
        plain = attrs.evolve(params, repetition_penalty=1.0)
        for token_id in {*prompt}:
            scores[token_id] = self.repeated(
                scores[token_id], params.repetition_penalty
            )
        return super().by(scores, plain, (), generated)


@subtle(TOKEN)
class SubtractsBeforeItScales(OwnPenalties):
    """Applies presence and frequency before the repetition penalty."""

    def by(self, scores, params, prompt, generated):
        first = attrs.evolve(params, repetition_penalty=1.0)
        second = attrs.evolve(params, presence_penalty=0.0, frequency_penalty=0.0)
        scores = super().by(scores, first, (), generated)
        return super().by(scores, second, prompt, generated)


# ------------------------------------------------------------------------------ filters


@subtle(TOKEN)
class FiltersBeforeTheTemperature(OwnFilters):
    """Takes `top_p` and `min_p` of the probabilities before the temperature."""

    def probabilities(self, scores, params):
        kept = distribution(scores, attrs.evolve(params, temperature=1.0)) > 0
        return softmax(np.where(kept, scores / params.temperature, -np.inf))


@subtle("not as frequent")
class TopPWithoutTheCrossing(OwnFilters):
    """Leaves out the token with which the sum reaches `top_p`."""

    def probabilities(self, scores, params):
        found = distribution(scores, params)
        if params.top_p < 1 and (found > 0).sum() > 1:
            found[np.argmin(np.where(found > 0, found, np.inf))] = 0.0
        return found / found.sum()


@subtle(TOKEN)
class TopPOfAllTokens(OwnFilters):
    """Takes `top_p` of all tokens, not of those that `top_k` and `min_p` keep."""

    def probabilities(self, scores, params):
        others = distribution(scores, attrs.evolve(params, top_p=1.0))
        warm = softmax(scores / params.temperature)
        both = np.where(nucleus(warm, params.top_p) > 0, others, 0.0)
        return both / both.sum()


@subtle("not as frequent")
class MinPIsAbsolute(OwnFilters):
    """Takes `min_p` for a probability, not a share of the best one."""

    def probabilities(self, scores, params):
        warm = softmax(scores / params.temperature)
        least = min(params.min_p / warm.max(), 1.0)
        return distribution(scores, attrs.evolve(params, min_p=least))


@subtle("not as frequent")
class UniformAfterFilters(OwnFilters):
    """Draws equally often what the filters keep."""

    def probabilities(self, scores, params):
        found = distribution(scores, params)
        filters = (params.top_k > 0) + (params.top_p < 1) + (params.min_p > 0)
        return (found > 0) / (found > 0).sum() if filters else found


@subtle("not as frequent")
class KeepsThree(OwnFilters):
    """Never keeps more than three tokens, when one of the filters is set."""

    def probabilities(self, scores, params):
        if params.top_k > 0 or params.top_p < 1 or params.min_p > 0:
            most = min(params.top_k if params.top_k > 0 else 3, 3)
            return distribution(scores, attrs.evolve(params, top_k=most))
        return distribution(scores, params)


@subtle("not as frequent")
class TemperatureOfOneAtMost(OwnFilters):
    """Cuts the temperature to one, if no filter is set."""

    def probabilities(self, scores, params):
        filtered = params.top_k > 0 or params.top_p < 1 or params.min_p > 0
        if filtered or params.temperature <= 1:
            return distribution(scores, params)
        return distribution(scores, attrs.evolve(params, temperature=1.0))


@subtle("not as frequent")
class HasOneNumberARequest(ReferenceScript):
    """Draws all tokens of a request with one random number."""

    def number(self, seed, position):
        return super().number(seed, 0)


@subtle("does not use all 64 bits")
class SeedsOf32Bits(ReferenceScript):
    """Takes the lowest 32 bits of a seed."""

    def number(self, seed, position):
        return super().number(seed % 2**32, position)


@subtle("not as frequent")
class IsGreedyAfterAWhile(Own):
    """Takes the most probable token from the sixth on."""

    def token(self, request, position):
        params = request.params
        if position >= 5 and not params.greedy and params.logprobs is None:
            ids = [self.script(request, n).token_id for n in range(5)]
            for _ in range(5, position + 1):
                ids.append(int(self.script.scores(request, ids).argmax()))
            return SlotToken(ids[-1])
        return self.script(request, position)


# --------------------------------------------------------------------- bans and biases


class OtherWords(ReferenceScript):
    """Bans words of its own."""

    def __init__(self, model) -> None:
        super().__init__(model)
        self.changed = Changes().of

    def scores(self, request, generated):
        words = tuple(self.words(request, list(generated)))
        return super().scores(
            self.changed(request, bad_words_token_ids=words), generated
        )

    def words(self, request, generated):
        raise NotImplementedError


@subtle(TOKEN)
class MatchesWordsOverTheBorder(OtherWords):
    """Bans the end of a bad word that begins in the prompt."""

    def words(self, request, generated):
        context = [*request.prompt_token_ids, *generated]
        for *before, last in request.bad_words_token_ids:
            if context[len(context) - len(before) :] == before:
                yield (last,)


@subtle("completes the bad word")
class BansTheFirstWord(OtherWords):
    """Bans the first of several bad words."""

    def words(self, request, generated):
        return request.bad_words_token_ids[:1]


@subtle("completes the bad word")
class MatchesTwoIds(OtherWords):
    """Compares only whole words of at most two ids."""

    def words(self, request, generated):
        return (word for word in request.bad_words_token_ids if len(word) < 3)


@subtle("completes the bad word")
class BansOnlyAtFirst(OtherWords):
    """Bans words until the fourth new token."""

    def words(self, request, generated):
        return request.bad_words_token_ids if len(generated) < 3 else ()


class OtherScores(ReferenceScript):
    """Scores a changed request."""

    def __init__(self, model) -> None:
        super().__init__(model)
        self.changed = Changes().of

    def scores(self, request, generated):
        return super().scores(
            self.changed(request, **self.instead(request, generated)), generated
        )

    def instead(self, request, generated):
        raise NotImplementedError


@subtle("is a stop id before min_tokens")
class SparesTheUsersIds(OtherScores):
    """Bans only the model's EOS ids before `min_tokens`."""

    def instead(self, request, generated):
        own = frozenset(request.params.stop_token_ids) - {506, 510, 511}
        return {"stop_token_ids": request.stop_token_ids - own}


@subtle(TOKEN)
class BansEveryEos(OtherScores):
    """Bans the model's EOS ids before `min_tokens` under `ignore_eos` too."""

    def instead(self, request, generated):
        return {"stop_token_ids": request.stop_token_ids | {506, 510, 511}}


@subtle(TOKEN)
class BansOneTooLong(OtherScores):
    """Bans stop ids for one token more than `min_tokens`."""

    def instead(self, request, generated):
        least = request.params.min_tokens
        more = min(least + 1, request.max_new_tokens) if least else 0
        return {"min_tokens": more}


@subtle(TOKEN)
class BiasesTheFirstToken(OtherScores):
    """Adds `logit_bias` to the first new token alone."""

    def instead(self, request, generated):
        return {"logit_bias": {}} if generated else {}


@subtle(TOKEN)
class CutsBiases(OtherScores):
    """Cuts a bias to five."""

    def instead(self, request, generated):
        biases = request.params.logit_bias.items()
        return {"logit_bias": {each: max(min(b, 5), -5) for each, b in biases}}


@subtle("is not in allowed_token_ids")
class AllowsStopIds(OtherScores):
    """Allows every stop id beside `allowed_token_ids`."""

    def instead(self, request, generated):
        allowed = request.params.allowed_token_ids
        if allowed is None:
            return {}
        return {"allowed_token_ids": [*allowed, *request.stop_token_ids]}


@subtle(TOKEN)
class BiasesAfterPenalties(OwnPenalties):
    """Adds `logit_bias` after the penalties."""

    def scores(self, request, generated):
        plain = self.changed(request, logit_bias={})
        scores = super().scores(plain, generated)
        for token_id, bias in request.params.logit_bias.items():
            scores[token_id] += bias
        return scores


# ------------------------------------------------------------------------- ends and ids


@subtle("is not a stop id")
class FallsBackToItsEos(Own):
    """Ends at the tokenizer's EOS under `ignore_eos`, if the user has stop ids."""

    def add_request(self, request):
        if request.params.ignore_eos and request.params.stop_token_ids:
            ids = request.stop_token_ids | {511}
            request = self.changed(request, stop_token_ids=ids)
        super().add_request(request)


@subtle("went on")
class GoesOnAtFirst(Own):
    """Lets no stop id end a request at its first new token."""

    def _next(self, row):
        output = super()._next(row)
        if row.generated == 1 and output.finish_reason == "stop":
            if row.request.max_new_tokens == 1:
                return output
            return attrs.evolve(output, finish_reason=None, stop_token_id=None)
        return output


@subtle("is not a stop id")
class EndsAtThirtyTwo(Own):
    """Ends a request after 32 new tokens."""

    def _next(self, row):
        output = super()._next(row)
        if row.generated == 32 and output.finish_reason is None:
            return attrs.evolve(output, finish_reason="length")
        return output


@subtle("In random-")
class RemembersAborted(Own):
    """Sends the next token of an aborted request, if another one is running."""

    def abort(self, request_ids):
        rows = [self._running[each] for each in request_ids if each in self._running]
        super().abort(request_ids)
        self.sent = [row for row in rows if self._running]

    sent = ()

    def step(self):
        outputs = [self._next(row) for row in self.sent if self._running]
        self.sent = ()
        return super().step() + outputs


@subtle(TOKEN)
class GoesOnAfterAnAbort(Own):
    """Continues an aborted request where it was, when its id comes again."""

    def __init__(self, config) -> None:
        super().__init__(config)
        self.left: dict[str, int] = {}

    def abort(self, request_ids):
        self.left |= {
            each: self._running[each].generated
            for each in request_ids
            if each in self._running
        }
        super().abort(request_ids)

    def token(self, request, position):
        skipped = self.left.get(request.request_id, 0)
        if position + skipped >= request.max_new_tokens:
            skipped = 0
        return self.script(request, position + skipped)


# ------------------------------------------------------------------------------ prompts


class OtherPrompts(Own):
    """Computes changed prompts."""

    def token(self, request, position):
        prompt = tuple(self.prompt(request.prompt_token_ids))
        return self.script(self.changed(request, prompt_token_ids=prompt), position)

    def prompt(self, ids):
        raise NotImplementedError


@subtle(TOKEN)
class DropsTrailingPads(OtherPrompts):
    """Drops ids of padding from the end of a prompt."""

    def prompt(self, ids):
        while len(ids) > 1 and ids[-1] == 507:
            ids = ids[:-1]
        return ids


@subtle(TOKEN)
class KeepsTheLast64(OtherPrompts):
    """Computes only the last 64 ids of a prompt."""

    def prompt(self, ids):
        return ids[-64:]


@subtle(TOKEN)
class LosesAFullPage(OtherPrompts):
    """Loses the first id of a prompt whose length is a whole number of pages."""

    def prompt(self, ids):
        return ids[1:] if len(ids) % 16 == 0 else ids


@subtle(TOKEN)
class LosesTheSecondChunk(OtherPrompts):
    """Loses the first id of the second chunk of a prompt."""

    def prompt(self, ids):
        return (*ids[:64], *ids[65:]) if len(ids) > 65 else ids


# --------------------------------------------------------------------- log-probabilities


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
