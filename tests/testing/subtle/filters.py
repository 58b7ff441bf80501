# SPDX-License-Identifier: Apache-2.0

"""Engines that draw, filter and seed in their own way."""

from __future__ import annotations

import attrs
import numpy as np
from testing.broken.bases import Own

from unillm.engines.slots import SlotToken
from unillm.testing.reference import ReferenceScript, distribution

from .bases import TOKEN, subtle


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


@subtle("filters keep")
class LargeTopKIsNone(OwnFilters):
    """Takes a `top_k` above forty for none."""

    def probabilities(self, scores, params):
        top_k = params.top_k if params.top_k <= 40 else 0
        return distribution(scores, attrs.evolve(params, top_k=top_k))


@subtle(TOKEN)
class LowestTemperature(OwnFilters):
    """Draws at a temperature of at least one half."""

    def probabilities(self, scores, params):
        warm = max(params.temperature, 0.5)
        return distribution(scores, attrs.evolve(params, temperature=warm))


@subtle("64 bits")
class SeedsModuloAPrime(ReferenceScript):
    """Takes a seed modulo 2^31 - 1."""

    def number(self, seed, position):
        return super().number(seed % (2**31 - 1), position)


@subtle("64 bits")
class SeedsWithoutASign(ReferenceScript):
    """Takes the absolute value of a seed."""

    def number(self, seed, position):
        return super().number(abs(seed), position)


@subtle("draws 1 apart by id")
class NumbersComeTwice(ReferenceScript):
    """Draws two tokens after each other with one random number."""

    def number(self, seed, position):
        return super().number(seed, position // 2)
