# SPDX-License-Identifier: Apache-2.0

"""Medians, intervals and decisions."""

from __future__ import annotations

import random

import pytest

from unillm.bench.statistics import (
    Spread,
    decision,
    paired_ratio,
    percentile,
    rounded,
)


def test_the_interval_of_ten_values_is_from_the_second_to_the_ninth():
    spread = Spread.of([10, 3, 1, 2, 9, 4, 8, 5, 7, 6])

    assert (spread.median, spread.low, spread.high) == (5.5, 2, 9)
    assert (spread.smallest, spread.largest, spread.count) == (1, 10, 10)
    assert spread.confidence == pytest.approx(0.9785, abs=1e-4)  # of a sign test


@pytest.mark.parametrize(("count", "reached"), [(1, False), (5, False), (6, True)])
def test_few_values_reach_no_confidence(count, reached):
    assert (Spread.of(range(count)).confidence >= 0.95) is reached


def test_the_interval_holds_the_true_median_as_often_as_it_says():
    rng = random.Random(0)
    held = []
    for _ in range(2000):
        spread = Spread.of([rng.lognormvariate(0, 1) for _ in range(10)])
        held.append(spread.low <= 1 <= spread.high)

    assert sum(held) / len(held) == pytest.approx(0.9785, abs=0.015)


def test_percentiles_lie_between_two_values():
    assert [percentile([4, 1, 3, 2], share) for share in (0, 50, 100)] == [1, 2.5, 4]
    assert percentile([7], 99) == 7


@pytest.mark.parametrize(
    ("others", "expected"),
    [([2.0] * 10, "higher"), ([0.5] * 10, "lower"), ([0.9, 1.1] * 5, "tie")],
)
def test_a_ratio_is_a_difference_only_beside_one(others, expected):
    assert decision(paired_ratio([1.0] * 10, others)) == expected


def test_three_rounds_decide_nothing():
    assert decision(paired_ratio([1.0] * 3, [2.0] * 3)) == "tie"


@pytest.mark.parametrize(
    ("value", "text"),
    [(16_987_654, "17,000,000"), (123.4, "123"), (12.345, "12.3"), (0.07583, "0.0758")],
)
def test_a_number_is_shown_with_three_digits(value, text):
    assert rounded(value) == text
