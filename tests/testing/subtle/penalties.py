# SPDX-License-Identifier: Apache-2.0

"""Engines with defects of penalties and of what restarts of a run forget."""

from __future__ import annotations

from typing import Any

import attrs
from testing.broken.bases import Changes

from unillm.engines.base import Engine
from unillm.scheduling.runs import RunScheduler
from unillm.testing.backends import reference_script
from unillm.testing.batches import ScriptedBatchEngine
from unillm.testing.reference import ReferenceScript

from .bases import TOKEN, subtle

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
