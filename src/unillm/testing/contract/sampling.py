# SPDX-License-Identifier: Apache-2.0

"""S: the fields that decide which token is sampled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..asking import COUNT, UNSURE, Asker
from ..driving import DrivenEngine
from ..reference import distribution
from ..subject import Subject
from .clauses import clause
from .fixtures import Clauses

_DRAWS = 128
"""Requests with different seeds, of which each draws one token."""

_SPREADS = 4.5
"""Where the share of a token is so many standard deviations off, four times as many
draws with other seeds decide. A right engine whose draws differ in each run fails a
clause with a probability below 1e-7."""

_LIKELY = 0.04
"""Tokens above this probability are counted."""

_NEAR = 1e-3
"""Rounding near the border of a filter, in logits."""


class SamplingClauses(Clauses):
    """Compared with the model's own distribution, computed in float64."""

    @clause()
    def test_s1_greedy(self, engine: DrivenEngine, ask: Asker) -> None:
        """At temperature 0 the most probable token is chosen, whatever the seed.

        Troubleshooting: A temperature below 1e-5 is greedy, and then top_k, top_p and
            min_p do nothing.
        """
        fields: dict[str, Any] = {"top_k": 50, "top_p": 0.99, "min_p": 0.001}
        requests = [
            ask(prompt, seed=seed, max_tokens=1, temperature=0.0, **fields)
            for prompt in _UNSURE
            for seed in (1, 2, 3)
        ]

        engine.run(*requests)

        assert engine.ids(requests) == ask.answers(requests)

    @clause("seed", "temperature")
    def test_s2_reproducible(self, engine: DrivenEngine, ask: Asker) -> None:
        """The same request with the same seed draws the same tokens again.

        Troubleshooting: `EngineRequest.seed` is always set. Seed a generator of the
            request with it, not the process's.
        """
        first, second = (
            engine.run(ask(UNSURE, seed=7, **_WILD))[0].token_ids for _ in range(2)
        )

        assert first == second

    @clause("seed", "temperature")
    def test_s3_seed_and_neighbours(self, engine: DrivenEngine, ask: Asker) -> None:
        """The tokens of a seed depend on no neighbour, slot or order.

        Troubleshooting: A generator that the batch shares, or that follows a row, gives
            other numbers when requests join. Give each request its own.
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

        Troubleshooting: If all are equal, the seed is unused or sampling is off.
        """
        results = engine.run(*(ask(UNSURE, seed=seed, **_WILD) for seed in range(16)))

        assert len({tuple(each.token_ids) for each in results}) >= 5

    @clause("temperature")
    def test_s5_distribution(self, engine: DrivenEngine, ask: Asker) -> None:
        """Tokens are drawn as often as their probabilities at the temperature say.

        Troubleshooting: Divide the logits by the temperature before the softmax.
        """
        for fields in ({"temperature": 1.0}, {"temperature": 1.7}):
            assert (_expected(ask, fields) > _LIKELY).sum() >= 3
            _assert_shares(engine, ask, fields)

    @clause("temperature", "top_k")
    def test_s6_top_k(self, engine: DrivenEngine, ask: Asker) -> None:
        """With `top_k` only the k most probable tokens are drawn.

        Their probabilities keep their proportions.

        Troubleshooting: 0 and -1 mean all tokens.
        """
        _assert_filtered(engine, ask, temperature=1.0, top_k=3)

    @clause("temperature", "top_p")
    def test_s7_top_p(self, engine: DrivenEngine, ask: Asker) -> None:
        """With `top_p` only the smallest set of that total probability is drawn.

        Troubleshooting: The token with which the sum reaches `top_p` belongs to the
            set.
        """
        _assert_filtered(engine, ask, temperature=1.5, top_p=0.6)

    @clause("temperature", "min_p")
    def test_s8_min_p(self, engine: DrivenEngine, ask: Asker) -> None:
        """With `min_p` no token below that share of the best probability is drawn.

        Troubleshooting: It is a share of the highest probability after the temperature.
        """
        _assert_filtered(engine, ask, temperature=1.5, min_p=0.2)

    @clause("presence_penalty")
    def test_s9_presence(self, engine: DrivenEngine, ask: Asker) -> None:
        """`presence_penalty` is subtracted once from each generated token's logit.

        Troubleshooting: The prompt does not count. A negative value is a reward.
        """
        apple = ("Spell the word apple:", 16, {"presence_penalty": 2.0})
        add = ("Add 17 and 25:", 8, {"presence_penalty": -2.0})
        _assert_rules(engine, ask, apple, add)

    @clause("frequency_penalty")
    def test_s10_frequency(self, engine: DrivenEngine, ask: Asker) -> None:
        """`frequency_penalty` is subtracted once per occurrence of a generated token.

        Troubleshooting: The prompt does not count. A negative value is a reward.
        """
        count = (COUNT, 16, {"frequency_penalty": 2.0})
        name = ("Name the day after Monday:", 8, {"frequency_penalty": -2.0})
        _assert_rules(engine, ask, count, name)

    @clause("repetition_penalty")
    def test_s11_repetition(self, engine: DrivenEngine, ask: Asker) -> None:
        """`repetition_penalty` scales the logits of the prompt's and generated tokens.

        Troubleshooting: Divide positive logits, multiply negative ones.
        """
        apple = ("Spell the word apple:", 16, {"repetition_penalty": 1.5})
        days = ("List the days from Tuesday:", 8, {"repetition_penalty": 2.5})
        _assert_rules(engine, ask, apple, days)

    @clause("logit_bias")
    def test_s12_logit_bias(self, engine: DrivenEngine, ask: Asker) -> None:
        """`logit_bias` is added to the logits of its tokens.

        Troubleshooting: Before penalties and temperature; 100 practically forces a
            token, -100 forbids it.
        """
        first = ask.answer(ask())[0]
        forced = ask(logit_bias={65: 100.0}, max_tokens=4)
        banned = ask(logit_bias={first: -100.0}, max_tokens=1)

        results = engine.run(forced, banned)

        assert results[0].token_ids == [65] * 4
        assert results[1].token_ids == ask.answer(banned)

    @clause("allowed_token_ids")
    def test_s13_allowed(self, engine: DrivenEngine, ask: Asker) -> None:
        """With `allowed_token_ids` no other token is generated.

        Troubleshooting: An EOS id outside of them cannot be generated either.
        """
        digits = sorted(set(ask.answer(ask("Count from 31 to 27:"))[:-1]))
        request = ask("Add 17 and 25:", allowed_token_ids=digits, max_tokens=6)
        drawn = ask(UNSURE, allowed_token_ids=[50, 60, 70], seed=3, **_WILD)

        results = engine.run(request, drawn)

        assert set(results[0].token_ids) <= set(digits)
        assert len(results[0].token_ids) == 6
        assert set(results[1].token_ids) <= {50, 60, 70}

    @clause("bad_words", "bad_words.sequences", "bad_words.sequences.ids")
    def test_s14_bad_words(self, engine: DrivenEngine, ask: Asker) -> None:
        """The ids of a bad word never follow each other.

        Troubleshooting: `EngineRequest.bad_words_token_ids` has them in tokens. Ban
            only the last id of a sequence, and only after the ids before it.
        """
        whole = ask.answer(ask())
        # The last id of the second word appears earlier, after other ids.
        words = [whole[2:5]], [whole[4:6]]
        requests = [ask(bad_words_token_ids=each, max_tokens=6) for each in words]

        results = engine.run(*requests)

        assert whole[5] in whole[:4]
        assert [t.token_ids for t in results] == [ask.answer(r) for r in requests]
        assert [t.token_ids[:4] for t in results] == [whole[:4]] * 2

    @clause("temperature")
    def test_s15_own_temperature(self, engine: DrivenEngine, ask: Asker) -> None:
        """A greedy request stays greedy beside requests that sample.

        Troubleshooting: Temperatures belong to rows.
        """
        pairs = [
            (ask(UNSURE, seed=n, **_WILD), ask(_UNSURE[n % 4], seed=n, max_tokens=1))
            for n in range(12)
        ]

        engine.run(*(request for pair in pairs for request in pair))

        calm = [each for _, each in pairs]
        assert engine.ids(calm) == ask.answers(calm)

    @clause("temperature")
    def test_s16_temperatures_apart(self, engine: DrivenEngine, ask: Asker) -> None:
        """Requests side by side are each drawn at their own temperature.

        Troubleshooting: An engine that takes one temperature for a batch needs a tensor
            with one for each row, or batches of equal ones.
        """
        _assert_shares(engine, ask, {"temperature": 0.6}, {"temperature": 1.7})

    @clause()
    def test_s17_fields_apart(
        self, engine: DrivenEngine, ask: Asker, subject: Subject
    ) -> None:
        """A penalty, bias or ban of one request changes nothing beside it.

        Troubleshooting: Each of them belongs to a row. An engine that ignores one gives
            the same answer with it as without.
        """
        first, third = ask.answer(ask())[0:3:2]
        fields: dict[str, dict[str, Any]] = {
            "repetition_penalty": {"repetition_penalty": 2.5},
            "logit_bias": {"logit_bias": {first: -100.0}},
            "allowed_token_ids": {"allowed_token_ids": [first, 65]},
            "bad_words": {"bad_words_token_ids": [[third]]},
        }
        changed = [
            ask(max_tokens=6, **given)
            for name, given in fields.items()
            if subject.declares(name)
        ]
        plain = [ask(max_tokens=6) for _ in changed]

        engine.run(
            *(each for pair in zip(plain, changed, strict=True) for each in pair)
        )

        assert engine.ids(plain) == ask.answers(plain)
        assert engine.ids(changed) == ask.answers(changed)
        assert all(engine.ids([each]) != engine.ids(plain[:1]) for each in changed)

    @clause("bad_words")
    def test_s18_bad_ids(self, engine: DrivenEngine, ask: Asker) -> None:
        """A bad word of one token is never generated, and others stay as they are.

        Troubleshooting: `EngineRequest.bad_words_token_ids` has it as a sequence of one
            id. The prompt may have it.
        """
        whole = ask.answer(ask())
        requests = [
            ask(bad_words_token_ids=[[banned]], max_tokens=6)
            for banned in (whole[0], whole[2])
        ]

        results = engine.run(*requests)

        assert [t.token_ids for t in results] == ask.answers(requests)
        assert whole[0] not in results[0].token_ids
        assert results[1].token_ids[:2] == whole[:2]

    @clause("seed", "temperature")
    def test_s19_all_bits_of_seeds(self, engine: DrivenEngine, ask: Asker) -> None:
        """Seeds that differ in one bit draw different tokens, whichever bit it is.

        Troubleshooting: A seed has 64 bits and a sign. torch's generator on the CPU
            takes the lowest 32; mix the others in.
        """
        seed = 5
        seeds = [seed ^ (1 << bit) for bit in range(63)] + [seed - 2**63]
        # The model repeats itself after one prompt; after two, chance cannot.
        pairs = [
            [ask(prompt, seed=each, **_WILD) for prompt in ("Count", "List the")]
            for each in (seed, *seeds)
        ]

        engine.run(*(request for pair in pairs for request in pair))

        first, *others = (engine.ids(pair) for pair in pairs)
        same = [s for s, ids in zip(seeds, others, strict=True) if ids == first]
        assert same == []


_UNSURE = (UNSURE, "Spell the word", "Count", "List the")
"""The most probable next token is clear, and a draw often takes another one."""

_WILD: dict[str, Any] = {"temperature": 2.0, "max_tokens": 24, "ignore_eos": True}


def _assert_filtered(engine: DrivenEngine, ask: Asker, **fields: Any) -> None:
    """Assert that the filter in *fields* takes some tokens, and no other is drawn."""
    assert (_expected(ask, fields) == 0).any(), "the filter keeps everything"
    [counts] = _assert_shares(engine, ask, fields)
    assert len(counts) >= 2, "a single token was drawn"


def _assert_shares(
    engine: DrivenEngine, ask: Asker, *kinds: dict[str, Any]
) -> list[Counter[int]]:
    """Assert that each likely token is drawn about as often as it should be.

    Args:
        engine: Under test.
        ask: Makes the requests.
        kinds: Fields of requests that run side by side.

    Returns:
        How often each token was drawn, for each kind.
    """
    counts = _draw(engine, ask, range(_DRAWS), kinds)
    if any(map(_off, counts, [_expected(ask, fields) for fields in kinds])):
        counts = _draw(engine, ask, range(_DRAWS, 5 * _DRAWS), kinds)
    for drawn, fields in zip(counts, kinds, strict=True):
        assert _off(drawn, _expected(ask, fields)) == []
    return counts


def _draw(
    engine: DrivenEngine,
    ask: Asker,
    seeds: Sequence[int],
    kinds: Sequence[dict[str, Any]],
) -> list[Counter[int]]:
    """Draw a token of each kind with each seed, none outside of the kind's filters."""
    requests = [
        ask(UNSURE, seed=seed, max_tokens=1, **fields)
        for seed in seeds
        for fields in kinds
    ]
    results = engine.run(*requests)
    found = []
    for at, fields in enumerate(kinds):
        drawn = [each.token_ids for each in results[at :: len(kinds)]]
        assert {len(ids) for ids in drawn} == {1}
        counts = Counter(token_id for [token_id] in drawn)
        scores = ask.scores(ask(UNSURE))
        border = scores[_expected(ask, fields) > 0].min() - _NEAR
        assert all(scores[token_id] >= border for token_id in counts)
        found.append(counts)
    return found


def _expected(ask: Asker, fields: dict[str, Any]) -> Any:
    """Return ``[vocab]``: the probability of each first token."""
    request = ask(UNSURE, **fields)
    return distribution(ask.scores(request), request.params)


def _off(counts: Counter[int], expected: Any) -> list[str]:
    """Return the likely tokens that were drawn too often or too seldom."""
    found = []
    for token_id in np.flatnonzero(expected > _LIKELY).tolist():
        share = expected[token_id]
        spread = (share * (1 - share) / counts.total()) ** 0.5
        drawn = counts[token_id] / counts.total()
        if abs(drawn - share) >= _SPREADS * spread:
            found.append(f"{token_id}: {drawn} for {share}")
    return found


def _assert_rules(
    engine: DrivenEngine, ask: Asker, *cases: tuple[str, int, dict[str, Any]]
) -> None:
    """Compare greedy requests with the rules applied to the model's logits.

    Args:
        engine: Under test.
        ask: Makes the requests.
        cases: Prompt, new tokens and fields. The fields change the answer, and the
            margin stays wide.
    """
    requests, answers = [], []
    for prompt, count, fields in cases:
        plain = ask(prompt, max_tokens=count, ignore_eos=True)
        requests.append(ask(prompt, max_tokens=count, ignore_eos=True, **fields))
        answers.append(ask.answer(requests[-1]))
        assert answers[-1] != ask.answer(plain), "the field changes nothing"

    results = engine.run(*requests)

    assert [result.token_ids for result in results] == answers
