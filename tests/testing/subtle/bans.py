# SPDX-License-Identifier: Apache-2.0

"""Engines with defects of bad words, stop ids, biases and allowed ids."""

from __future__ import annotations

from testing.broken.bases import Changes

from unillm.testing.reference import ReferenceScript

from .bases import TOKEN, subtle
from .penalties import OwnPenalties


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
