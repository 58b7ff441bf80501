# SPDX-License-Identifier: Apache-2.0

"""S: the fields that decide which token is chosen."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from ..reference import distribution
from .asking import COUNT, UNSURE, Asker, Oracle
from .clauses import clause
from .driving import DrivenEngine

_DRAWS = 128
"""First tokens that are drawn with different seeds."""

_NEAR = 1e-3
"""How far from the border of a filter a probability may be, and be on either side."""


class SamplingClauses:
    """Held against the model's own distribution, computed in float64."""

    @clause()
    def test_s1_greedy(self, engine: DrivenEngine, ask: Asker, oracle: Oracle) -> None:
        """At temperature 0 the most probable token is taken, whatever the seed.

        Troubleshooting:
            Below 1e-5 a temperature is greedy, and then top_k, top_p and min_p do
            nothing.
        """
        fields: dict[str, Any] = {"top_k": 50, "top_p": 0.99, "min_p": 0.001}
        requests = [
            ask(prompt, seed=seed, max_tokens=1, temperature=0.0, **fields)
            for prompt in _UNSURE
            for seed in (1, 2, 3)
        ]

        told = engine.run(*requests)

        assert [t.token_ids for t in told] == [oracle.token_ids(r) for r in requests]

    @clause("seed", "temperature")
    def test_s2_reproducible(self, engine: DrivenEngine, ask: Asker) -> None:
        """The same request with the same seed draws the same tokens again.

        Troubleshooting:
            `EngineRequest.seed` is always set. Seed the request's own generator with
            it, not the process's.
        """
        first, second = (
            engine.run(ask(UNSURE, seed=7, **_WILD))[0].token_ids for _ in range(2)
        )

        assert first == second

    @clause("seed", "temperature")
    def test_s3_seed_and_neighbours(self, engine: DrivenEngine, ask: Asker) -> None:
        """What a seed draws depends on no neighbour, no place and no order.

        Troubleshooting:
            One generator for the whole batch, or one that follows a row, gives other
            numbers when others join. Give each request its own.
        """
        [alone] = engine.run(ask(UNSURE, seed=11, **_WILD))
        others = [ask(UNSURE, seed=seed, **_WILD) for seed in (1, 2, 3)]
        mixed = [*others, ask(UNSURE, seed=11, **_WILD), ask(), ask("Add 8 and 30:")]
        turned = [ask(r.prompt_token_ids, seed=r.seed, **_WILD) for r in mixed[3::-1]]

        first = engine.run(*mixed)
        second = engine.run(*turned)

        assert [alone.token_ids] * 2 == [first[3].token_ids, second[0].token_ids]
        assert [t.token_ids for t in first[:3]] == [t.token_ids for t in second[:0:-1]]

    @clause("seed", "temperature")
    def test_s4_seeds_differ(self, engine: DrivenEngine, ask: Asker) -> None:
        """Different seeds draw different tokens.

        Troubleshooting:
            If all are equal the seed is not used, or sampling is off.
        """
        told = engine.run(*(ask(UNSURE, seed=seed, **_WILD) for seed in range(16)))

        assert len({tuple(each.token_ids) for each in told}) >= 5

    @clause("temperature")
    def test_s5_distribution(
        self, engine: DrivenEngine, ask: Asker, oracle: Oracle
    ) -> None:
        """Draws are as frequent as the model's probabilities at the temperature.

        Troubleshooting:
            Logits are divided by the temperature before the softmax.
        """
        for temperature in (1.0, 1.7):
            counts, expected = _draws(engine, ask, oracle, temperature=temperature)

            likely = [each for each in range(len(expected)) if expected[each] > 0.04]
            assert len(likely) >= 3
            for token_id in likely:
                share = expected[token_id]
                spread = (share * (1 - share) / _DRAWS) ** 0.5
                assert abs(counts[token_id] / _DRAWS - share) < 4.5 * spread

    @clause("temperature", "top_k")
    def test_s6_top_k(self, engine: DrivenEngine, ask: Asker, oracle: Oracle) -> None:
        """With `top_k` only the k most probable tokens are drawn.

        Troubleshooting:
            0 and -1 mean all of them.
        """
        _only_what_is_kept(engine, ask, oracle, temperature=2.0, top_k=3)

    @clause("temperature", "top_p")
    def test_s7_top_p(self, engine: DrivenEngine, ask: Asker, oracle: Oracle) -> None:
        """With `top_p` only the smallest set with that probability is drawn.

        Troubleshooting:
            The token with which the sum reaches `top_p` belongs to the set.
        """
        _only_what_is_kept(engine, ask, oracle, temperature=1.5, top_p=0.6)

    @clause("temperature", "min_p")
    def test_s8_min_p(self, engine: DrivenEngine, ask: Asker, oracle: Oracle) -> None:
        """With `min_p` tokens below that share of the best one are not drawn.

        Troubleshooting:
            It is a share of the highest probability after the temperature.
        """
        _only_what_is_kept(engine, ask, oracle, temperature=1.5, min_p=0.2)

    @clause("presence_penalty")
    def test_s9_presence(
        self, engine: DrivenEngine, ask: Asker, oracle: Oracle
    ) -> None:
        """`presence_penalty` is taken once from each token that was generated.

        Troubleshooting:
            The prompt does not count. A negative number is a reward.
        """
        apple = ("Spell the word apple:", 16, {"presence_penalty": 2.0})
        add = ("Add 17 and 25:", 8, {"presence_penalty": -2.0})
        _follow_the_rules(engine, ask, oracle, apple, add)

    @clause("frequency_penalty")
    def test_s10_frequency(
        self, engine: DrivenEngine, ask: Asker, oracle: Oracle
    ) -> None:
        """`frequency_penalty` is taken once for each time a token was generated.

        Troubleshooting:
            The prompt does not count. A negative number is a reward.
        """
        count = (COUNT, 16, {"frequency_penalty": 2.0})
        name = ("Name the day after Monday:", 8, {"frequency_penalty": -2.0})
        _follow_the_rules(engine, ask, oracle, count, name)

    @clause("repetition_penalty")
    def test_s11_repetition(
        self, engine: DrivenEngine, ask: Asker, oracle: Oracle
    ) -> None:
        """`repetition_penalty` scales the logits of what prompt or completion has.

        Troubleshooting:
            Positive logits are divided, negative ones multiplied.
        """
        apple = ("Spell the word apple:", 16, {"repetition_penalty": 1.5})
        days = ("List the days from Tuesday:", 8, {"repetition_penalty": 2.5})
        _follow_the_rules(engine, ask, oracle, apple, days)

    @clause("logit_bias")
    def test_s12_logit_bias(
        self, engine: DrivenEngine, ask: Asker, oracle: Oracle
    ) -> None:
        """`logit_bias` is added to the logits of its tokens.

        Troubleshooting:
            Before penalties and temperature; 100 as good as decides, -100 forbids.
        """
        first = oracle.token_ids(ask())[0]
        forced = ask(logit_bias={65: 100.0}, max_tokens=4)
        banned = ask(logit_bias={first: -100.0}, max_tokens=1)

        told = engine.run(forced, banned)

        assert told[0].token_ids == [65] * 4
        assert told[1].token_ids == oracle.token_ids(banned)

    @clause("allowed_token_ids")
    def test_s13_allowed(
        self, engine: DrivenEngine, ask: Asker, oracle: Oracle
    ) -> None:
        """With `allowed_token_ids` nothing else is generated.

        Troubleshooting:
            An end id that is not among them cannot come either.
        """
        digits = sorted(set(oracle.token_ids(ask("Count from 31 to 27:"))[:-1]))
        request = ask("Add 17 and 25:", allowed_token_ids=digits, max_tokens=6)
        drawn = ask(UNSURE, allowed_token_ids=[50, 60, 70], seed=3, **_WILD)

        told = engine.run(request, drawn)

        assert set(told[0].token_ids) <= set(digits)
        assert len(told[0].token_ids) == 6
        assert set(told[1].token_ids) <= {50, 60, 70}

    @clause("bad_words")
    def test_s14_bad_words(
        self, engine: DrivenEngine, ask: Asker, oracle: Oracle
    ) -> None:
        """The ids of a bad word never come one after the other.

        Troubleshooting:
            `EngineRequest.bad_words_token_ids` has them in tokens. Only the last id of
            a sequence is banned, and only behind those before it.
        """
        whole = oracle.token_ids(ask())
        # The last id of the second one comes before, behind other ids.
        words = [whole[2:5]], [whole[4:6]]
        requests = [ask(bad_words_token_ids=each, max_tokens=6) for each in words]

        told = engine.run(*requests)

        assert whole[5] in whole[:4]
        assert [t.token_ids for t in told] == [oracle.token_ids(r) for r in requests]
        assert [t.token_ids[:4] for t in told] == [whole[:4]] * 2

    @clause("temperature")
    def test_s15_own_temperature(
        self, engine: DrivenEngine, ask: Asker, oracle: Oracle
    ) -> None:
        """A greedy request stays greedy beside requests that draw.

        Troubleshooting:
            Temperatures belong to rows.
        """
        pairs = [
            (ask(UNSURE, seed=n, **_WILD), ask(_UNSURE[n % 4], seed=n, max_tokens=1))
            for n in range(12)
        ]

        engine.run(*(request for pair in pairs for request in pair))

        calm = [each for _, each in pairs]
        told = [engine.told(request).token_ids for request in calm]
        assert told == [oracle.token_ids(request) for request in calm]


_UNSURE = (UNSURE, "Spell the word", "Count", "List the")
"""The best next token is clear enough, and a draw takes another one often."""

_WILD: dict[str, Any] = {"temperature": 2.0, "max_tokens": 24, "ignore_eos": True}


def _draws(
    engine: DrivenEngine, ask: Asker, oracle: Oracle, **fields: Any
) -> tuple[Counter[int], Any]:
    """Return how often each first token was drawn, and what is expected."""
    requests = [ask(UNSURE, seed=n, max_tokens=1, **fields) for n in range(_DRAWS)]
    told = engine.run(*requests)
    counts = Counter(token_id for each in told for token_id in each.token_ids)
    return counts, distribution(oracle.scores(requests[0]), requests[0].params)


def _only_what_is_kept(
    engine: DrivenEngine, ask: Asker, oracle: Oracle, **fields: Any
) -> None:
    counts, expected = _draws(engine, ask, oracle, **fields)
    scores = oracle.scores(ask(UNSURE))
    kept = np.flatnonzero(expected)
    border = scores[kept].min() - _NEAR

    assert len(counts) >= 2, "nothing was drawn"
    assert len(kept) < len(scores), "the filter is none"
    assert all(scores[token_id] >= border for token_id in counts)


def _follow_the_rules(
    engine: DrivenEngine,
    ask: Asker,
    oracle: Oracle,
    *cases: tuple[str, int, dict[str, Any]],
) -> None:
    """Compare greedy requests with what the rules make of the model's logits.

    Args:
        engine: Under test.
        ask: Makes the requests.
        oracle: Knows the rules.
        cases: Prompt, new tokens and fields, chosen so that the fields change what is
            said and the margin stays wide.
    """
    requests = [
        ask(prompt, max_tokens=count, ignore_eos=True, **fields)
        for prompt, count, fields in cases
    ]
    plain = [
        ask(prompt, max_tokens=count, ignore_eos=True) for prompt, count, _ in cases
    ]

    told = engine.run(*requests)

    for each, request, other in zip(told, requests, plain, strict=True):
        expected = oracle.token_ids(request)
        assert expected != oracle.token_ids(other), "the field changes nothing"
        assert each.token_ids == expected
