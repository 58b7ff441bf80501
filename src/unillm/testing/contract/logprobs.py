# SPDX-License-Identifier: Apache-2.0

"""P: log-probabilities of new tokens and of prompt tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ...engines.base import EngineRequest, TokenLogprobs
from ..asking import COUNT, UNSURE, Asker
from ..driving import DrivenEngine, Result
from .clauses import clause
from .fixtures import Clauses


class LogprobClauses(Clauses):
    """Raw log-probabilities: of the model's unchanged logits."""

    @clause("logprobs", "logprobs.top")
    def test_p1_one_for_each(self, engine: DrivenEngine, ask: Asker) -> None:
        """Each new id has log-probabilities if the request asked, and none otherwise.

        Troubleshooting: `EngineOutput.logprobs` is as long as `token_ids`, the EOS
            token included, and `None` for a request that did not ask, whatever its
            neighbours do.
        """
        asked, silent = ask(logprobs=2), ask()

        results = engine.run(asked, silent)

        for output in results[0].outputs:
            assert output.logprobs is not None
            assert len(output.logprobs) == len(output.token_ids)
        assert {output.logprobs for output in results[1].outputs} == {None}

    @clause("logprobs")
    def test_p2_values(self, engine: DrivenEngine, ask: Asker) -> None:
        """The log-probability of a token is that of the model's own distribution.

        Troubleshooting: A log-softmax over the whole vocabulary, of logits in float32.
        """
        request = ask(UNSURE, logprobs=0, max_tokens=12, ignore_eos=True)

        [result] = engine.run(request)

        self._assert_own(request, result, ask)

    @clause("logprobs", "logprobs.top", "temperature")
    def test_p3_rank(self, engine: DrivenEngine, ask: Asker) -> None:
        """The rank of the most probable token is 1, of the next one 2, and so on.

        Troubleshooting: Count over the whole vocabulary before filters, not over the
            returned tokens.
        """
        # So many that a right engine draws a third rank, but for one run in 10⁸.
        requests = [
            ask(UNSURE, logprobs=1, seed=seed, temperature=2.0, max_tokens=2)
            for seed in range(16)
        ]

        ranks = set()
        for request, result in zip(requests, engine.run(*requests), strict=True):
            for context, token_id, at in _positions(request, result):
                logprobs = ask.model.logprobs(context)
                own, near = logprobs[token_id], self.logprob_tolerance
                better = (logprobs > own + near).sum()
                as_good = (logprobs >= own - near).sum()
                assert at.rank is not None
                assert better < at.rank <= max(as_good, better + 1)
                ranks.add(at.rank)
        assert len(ranks) > 2, "only the best tokens were drawn"

    @clause("logprobs", "logprobs.top")
    def test_p4_top(self, engine: DrivenEngine, ask: Asker) -> None:
        """The most probable tokens are returned best first, as many as requested.

        Troubleshooting: 0 returns none. The entry of the chosen token is separate, even
            if it is among the best.
        """
        most = engine.limits.max_logprobs
        for count in (0, 1, 5 if most is None else min(most, 5)):
            request = ask(UNSURE, logprobs=count, max_tokens=4, ignore_eos=True)

            [result] = engine.run(request)

            self._assert_top(request, result, ask, count)

    @clause("logprobs", "logprobs.top", "temperature")
    def test_p5_raw(self, engine: DrivenEngine, ask: Asker) -> None:
        """Log-probabilities are those before temperature, penalties and filters.

        Troubleshooting: vLLM's ``raw_logprobs``: take them before anything changes the
            logits.
        """
        request = ask(
            UNSURE, logprobs=2, temperature=0.5, top_k=2, seed=4, max_tokens=8
        )

        [result] = engine.run(request)

        self._assert_own(request, result, ask)
        self._assert_top(request, result, ask, 2)

    @clause("logprobs", "logprobs.top")
    def test_p6_all(self, engine: DrivenEngine, ask: Asker) -> None:
        """With -1 the whole vocabulary is returned.

        Troubleshooting: The generator's `max_logprobs` is -1 here, which allows it.
        """
        if (most := engine.limits.max_logprobs) is not None:
            pytest.skip(
                f"not declared: logprobs=-1 (the engine returns at most {most})"
            )
        request = ask(logprobs=-1, max_tokens=2)

        [result] = engine.run(request)

        size = ask.model.vocab_size
        assert all(sorted(at.top_ids) == list(range(size)) for at in result.logprobs)
        self._assert_top(request, result, ask, size)

    @clause("prompt_logprobs")
    def test_p7_of_the_prompt(self, engine: DrivenEngine, ask: Asker) -> None:
        """With the first new id come log-probabilities of all prompt ids but the first.

        Troubleshooting: Also for a prompt computed in parts or taken from a prefix
            cache, and only for a request that asked.
        """
        prompt = ask.ids(COUNT) * 8
        asked, silent = ask(prompt, prompt_logprobs=2, max_tokens=3), ask(max_tokens=3)

        results = engine.run(asked, silent)

        first, *others = results[0].outputs
        assert first.token_ids
        assert first.prompt_logprobs is not None
        assert {output.prompt_logprobs for output in others} <= {None}
        assert results[1].prompt_logprobs is None
        assert len(first.prompt_logprobs) == len(prompt) - 1
        for position, at in enumerate(first.prompt_logprobs, 1):
            logprobs = ask.model.logprobs(prompt[:position])
            expected = logprobs[prompt[position]]
            assert at.logprob == pytest.approx(expected, abs=self.logprob_tolerance)
            self._assert_top_at(at, logprobs, 2)

    @clause(
        "logprobs",
        "logprobs.top",
        "logprobs.changed",
        "logit_bias",
        "repetition_penalty",
    )
    def test_p8_beside_changes(self, engine: DrivenEngine, ask: Asker) -> None:
        """Biases and penalties change the tokens, not their log-probabilities.

        Troubleshooting: see P5. A rank may then be far from 1.
        """
        first = ask.answer(ask())[0]
        fields: dict[str, Any] = {"logprobs": 2, "max_tokens": 6}
        requests = [
            ask(logit_bias={first: -100.0}, **fields),
            ask(repetition_penalty=2.5, **fields),
        ]

        results = engine.run(*requests)

        for request, result in zip(requests, results, strict=True):
            assert result.token_ids != ask.answer(ask(max_tokens=6))
            self._assert_own(request, result, ask)
            self._assert_top(request, result, ask, 2)

    def _assert_own(self, request: EngineRequest, result: Result, ask: Asker) -> None:
        """Compare the log-probability of each new token with the model's."""
        for context, token_id, at in _positions(request, result):
            expected = ask.model.logprobs(context)[token_id]
            assert at.logprob == pytest.approx(expected, abs=self.logprob_tolerance)

    def _assert_top(
        self, request: EngineRequest, result: Result, ask: Asker, count: int
    ) -> None:
        """Compare the most probable tokens of each position with the model's."""
        for context, _, at in _positions(request, result):
            self._assert_top_at(at, ask.model.logprobs(context), count)

    def _assert_top_at(self, at: TokenLogprobs, logprobs: Any, count: int) -> None:
        near = self.logprob_tolerance
        assert len(at.top_ids) == len(at.top_logprobs) == count
        assert len(set(at.top_ids)) == count
        assert list(at.top_logprobs) == sorted(at.top_logprobs, reverse=True)
        for token_id, logprob in zip(at.top_ids, at.top_logprobs, strict=True):
            # A very improbable token has few digits that count.
            assert logprob == pytest.approx(logprobs[token_id], abs=near, rel=1e-3)
        left_out = sorted(set(range(len(logprobs))) - set(at.top_ids))
        if count and left_out:
            assert logprobs[left_out].max() <= at.top_logprobs[-1] + near


def _positions(
    request: EngineRequest, result: Result
) -> Iterator[tuple[list[int], int, TokenLogprobs]]:
    """Yield each new token, after the ids before it and with its log-probabilities."""
    ids = result.token_ids
    for position, (token_id, at) in enumerate(zip(ids, result.logprobs, strict=True)):
        yield [*request.prompt_token_ids, *ids[:position]], token_id, at
