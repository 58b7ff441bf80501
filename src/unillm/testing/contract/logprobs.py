# SPDX-License-Identifier: Apache-2.0

"""P: log-probabilities of new tokens and of the prompt's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from ...engines.base import TokenLogprobs
from .asking import COUNT, UNSURE, Asker, Oracle
from .clauses import clause
from .driving import DrivenEngine, Told


class LogprobClauses:
    """Raw ones: of the logits as the model gave them."""

    @clause("logprobs")
    def test_p1_one_for_each(self, engine: DrivenEngine, ask: Asker) -> None:
        """Each new id has its log-probabilities if the request asked, else none has.

        Troubleshooting:
            `EngineOutput.logprobs` is as long as `token_ids`, the end id's among them,
            and `None` for a request that did not ask, whatever its neighbours do.
        """
        asked, silent = ask(logprobs=2), ask()

        told = engine.run(asked, silent)

        for output in told[0].outputs:
            assert output.logprobs is not None
            assert len(output.logprobs) == len(output.token_ids)
        assert {output.logprobs for output in told[1].outputs} == {None}

    @clause("logprobs")
    def test_p2_values(
        self, engine: DrivenEngine, ask: Asker, oracle: Oracle, tolerance: float
    ) -> None:
        """The log-probability of a token is that of the model's own distribution.

        Troubleshooting:
            A log-softmax over the whole vocabulary, of logits in float32.
        """
        request = ask(UNSURE, logprobs=0, max_tokens=12, ignore_eos=True)

        [told] = engine.run(request)

        for context, token_id, at in _places(request.prompt_token_ids, told):
            expected = oracle.model.logprobs(context)[token_id]
            assert at.logprob == pytest.approx(expected, abs=tolerance)

    @clause("logprobs", "temperature")
    def test_p3_rank(
        self, engine: DrivenEngine, ask: Asker, oracle: Oracle, tolerance: float
    ) -> None:
        """The rank of a token is 1 for the most probable one, then 2, and so on.

        Troubleshooting:
            It counts the whole vocabulary, not what the filters left, and not only the
            tokens that are told.
        """
        requests = [
            ask(UNSURE, logprobs=1, seed=seed, temperature=2.0, max_tokens=8)
            for seed in range(4)
        ]

        ranks = set()
        for request, told in zip(requests, engine.run(*requests), strict=True):
            for context, token_id, at in _places(request.prompt_token_ids, told):
                logprobs = oracle.model.logprobs(context)
                own, near = logprobs[token_id], tolerance
                better = (logprobs > own + near).sum()
                as_good = (logprobs >= own - near).sum()
                assert better < at.rank <= max(as_good, better + 1)
                ranks.add(at.rank)
        assert len(ranks) > 2, "only the best were drawn"

    @clause("logprobs")
    def test_p4_top(
        self, engine: DrivenEngine, ask: Asker, oracle: Oracle, tolerance: float
    ) -> None:
        """The most probable tokens are told best first, as many as were asked.

        Troubleshooting:
            With 0 there are none; the token's own entry is not one of them, even where
            it is among the best.
        """
        for count in (0, 1, 5):
            request = ask(UNSURE, logprobs=count, max_tokens=4, ignore_eos=True)

            [told] = engine.run(request)

            for context, _, at in _places(request.prompt_token_ids, told):
                _assert_top(at, count, oracle.model.logprobs(context), tolerance)

    @clause("logprobs", "temperature")
    def test_p5_raw(
        self, engine: DrivenEngine, ask: Asker, oracle: Oracle, tolerance: float
    ) -> None:
        """Log-probabilities are those before temperature, penalties and filters.

        Troubleshooting:
            vLLM's ``raw_logprobs``: take them before anything changes the logits.
        """
        request = ask(
            UNSURE, logprobs=2, temperature=0.5, top_k=2, seed=4, max_tokens=8
        )

        [told] = engine.run(request)

        for context, token_id, at in _places(request.prompt_token_ids, told):
            logprobs = oracle.model.logprobs(context)
            assert at.logprob == pytest.approx(logprobs[token_id], abs=tolerance)
            _assert_top(at, 2, logprobs, tolerance)

    @clause("logprobs")
    def test_p6_all(
        self, engine: DrivenEngine, ask: Asker, oracle: Oracle, tolerance: float
    ) -> None:
        """With -1 the whole vocabulary is told.

        Troubleshooting:
            `max_logprobs` of the generator is -1 here, so it is allowed.
        """
        request = ask(logprobs=-1, max_tokens=2)

        [told] = engine.run(request)

        size = oracle.model.vocab_size
        for context, _, at in _places(request.prompt_token_ids, told):
            assert sorted(at.top_ids) == list(range(size))
            _assert_top(at, size, oracle.model.logprobs(context), tolerance)

    @clause("prompt_logprobs")
    def test_p7_of_the_prompt(
        self, engine: DrivenEngine, ask: Asker, oracle: Oracle, tolerance: float
    ) -> None:
        """With the first new id come those of the prompt, for each id but the first.

        Troubleshooting:
            Also for a prompt that is computed in several parts or comes from a prefix
            cache, and only for a request that asked.
        """
        prompt = ask.ids(COUNT) * 8
        asked, silent = ask(prompt, prompt_logprobs=2, max_tokens=3), ask(max_tokens=3)

        told = engine.run(asked, silent)

        first, *others = told[0].outputs
        assert first.token_ids
        assert first.prompt_logprobs is not None
        assert {output.prompt_logprobs for output in others} <= {None}
        assert told[1].prompt_logprobs is None
        assert len(first.prompt_logprobs) == len(prompt) - 1
        for place, at in enumerate(first.prompt_logprobs, 1):
            logprobs = oracle.model.logprobs(prompt[:place])
            expected = logprobs[prompt[place]]
            assert at.logprob == pytest.approx(expected, abs=tolerance)
            _assert_top(at, 2, logprobs, tolerance)


def _places(
    prompt: Sequence[int], told: Told
) -> list[tuple[list[int], int, TokenLogprobs]]:
    """Return each new token with the ids before it and what was told of it."""
    ids = told.token_ids
    assert len(told.logprobs) == len(ids)
    return [
        ([*prompt, *ids[:place]], ids[place], at)
        for place, at in enumerate(told.logprobs)
    ]


def _assert_top(at: TokenLogprobs, count: int, logprobs: Any, tolerance: float) -> None:
    assert len(at.top_ids) == len(at.top_logprobs) == count
    assert len(set(at.top_ids)) == count
    assert list(at.top_logprobs) == sorted(at.top_logprobs, reverse=True)
    for token_id, logprob in zip(at.top_ids, at.top_logprobs, strict=True):
        # Very improbable ones are not worth many digits.
        expected = pytest.approx(logprobs[token_id], abs=tolerance, rel=1e-3)
        assert logprob == expected
    left_out = sorted(set(range(len(logprobs))) - set(at.top_ids))
    if count and left_out:
        assert logprobs[left_out].max() <= at.top_logprobs[-1] + tolerance
