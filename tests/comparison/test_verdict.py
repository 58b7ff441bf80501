# SPDX-License-Identifier: Apache-2.0

"""How two answers to one prompt relate."""

from __future__ import annotations

import attrs
import pytest

from unillm.comparison.verdict import Answer, Candidate, Gap, Verdict, compare
from unillm.comparison.worker import CONVERTER


def answer(token_ids, gaps=None, **other):
    """An answer whose tokens are each *gap* nats over the id after it."""
    candidates = None
    if gaps is not None:
        candidates = [
            [Candidate(each, -0.1, "a"), Candidate(each + 1, -0.1 - gap, "b")]
            for each, gap in zip(token_ids, gaps, strict=True)
        ]
    fields = {"prompt_token_ids": [1], "text": str(token_ids), "finish_reason": "stop"}
    return Answer(token_ids=token_ids, candidates=candidates, **{**fields, **other})


def test_the_same_tokens_with_the_same_end_are_equal():
    found = compare(answer([5, 6], [1, 1]), answer([5, 6], [2, 2]))

    assert (found.verdict, found.divergence) == (Verdict.EQUAL, None)
    assert found.logprob_difference == 0


def test_a_divergence_has_its_position_and_both_gaps():
    one = answer([5, 6, 7], [1, 0.25, 1])
    other = attrs.evolve(
        answer([5, 7, 9], [1, 1, 1]),
        candidates=[
            [Candidate(5, -0.3)],
            [Candidate(7, -0.1, "seven"), Candidate(6, -0.6, "six")],
            [Candidate(9, -0.1)],
        ],
    )

    found = compare(one, other)

    assert found.verdict is Verdict.DIVERGED
    assert found.divergence.position == 1
    assert found.divergence.token_ids == (6, 7)
    assert found.divergence.texts == ("a", "b")
    assert [gap.nats for gap in found.divergence.gaps] == [
        pytest.approx(0.25),
        pytest.approx(0.5),
    ]
    assert found.logprob_difference == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("tolerance", "verdict"),
    [(0.0, "diverged"), (0.2, "diverged"), (0.3, "near tie")],
)
def test_a_tie_is_near_where_both_gaps_are(tolerance, verdict):
    one = answer([5], [0.1])
    other = attrs.evolve(
        answer([6], [1]), candidates=[[Candidate(6, -0.1), Candidate(5, -0.35)]]
    )

    found = compare(one, other, tolerance=tolerance)

    assert found.verdict.value == verdict
    assert (verdict == "near tie") is found.verdict.agrees


def test_the_gap_to_a_token_that_is_not_a_candidate_is_a_lower_bound():
    found = compare(answer([5], [0.5]), answer([9], [0.5]), tolerance=10)

    gap = Gap(nats=pytest.approx(0.5), is_exact=False)
    assert found.divergence.gaps == (gap, gap)
    assert found.verdict is Verdict.DIVERGED


def test_without_logprobs_no_divergence_is_near():
    found = compare(answer([5]), answer([6]), tolerance=10)

    assert found.divergence.gaps == (None, None)
    assert found.verdict is Verdict.DIVERGED
    assert found.logprob_difference is None


@pytest.mark.parametrize(
    "other",
    [
        answer([5, 6, 7]),
        answer([5, 6], finish_reason="length"),
        answer([5, 6], stop_reason=6),
        answer([5, 6], text="another"),
    ],
    ids=["longer", "finish_reason", "stop_reason", "text"],
)
def test_the_same_tokens_may_end_differently(other):
    found = compare(answer([5, 6]), other)

    assert found.verdict is Verdict.ENDED_DIFFERENTLY
    assert found.divergence is None
    assert not found.verdict.agrees


def test_different_prompt_tokens_are_a_verdict_of_their_own():
    found = compare(answer([5]), answer([5], prompt_token_ids=[2]))

    assert found.verdict is Verdict.DIFFERENT_PROMPT


@pytest.mark.parametrize(
    ("one", "other", "verdict"),
    [
        (Answer(error="A"), Answer(error="A", message="x"), Verdict.BOTH_REFUSED),
        (Answer(error="A"), Answer(error="B"), Verdict.ONE_REFUSED),
        (Answer(error="A"), answer([5]), Verdict.ONE_REFUSED),
    ],
    ids=["same", "another", "one"],
)
def test_a_refusal_agrees_with_the_same_refusal_only(one, other, verdict):
    assert compare(one, other).verdict is verdict


def test_an_answer_survives_json():
    given = answer([5, 6], [1, 2], stop_reason="x")

    line = CONVERTER.dumps(given)

    read = CONVERTER.loads(line, Answer)

    assert read.stop_reason == "x"
    assert read.candidates[0][0] == given.candidates[0][0]
    assert CONVERTER.dumps(read) == line
