# SPDX-License-Identifier: Apache-2.0

"""Each filter against its definition, token by token."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unillm.sampling import filters

pytestmark = pytest.mark.property

# Multiples of 1/8: ties are common, and sums are exact.
score_rows = st.lists(
    st.integers(-60, 60).map(lambda n: n / 8), min_size=1, max_size=40
)


def weights_of(scores: list[float]) -> torch.Tensor:
    tensor = torch.tensor([scores])
    return filters.weigh(tensor, tensor.amax(-1), torch.ones(1))


def kept(weights: torch.Tensor) -> set[int]:
    return {i for i, weight in enumerate(weights[0].tolist()) if weight > 0}


@given(score_rows, st.floats(0.01, 2.0))
def test_weights_are_probabilities_relative_to_the_best(scores, temperature):
    tensor = torch.tensor([scores])

    weights = filters.weigh(tensor, tensor.amax(-1), torch.tensor([temperature]))

    expected = [math.exp((s - max(scores)) / temperature) for s in scores]
    assert weights[0].tolist() == pytest.approx(expected, rel=1e-3, abs=1e-30)
    assert weights.max() == 1.0


@given(score_rows, st.floats(0.0, 1.0))
def test_min_p_keeps_tokens_near_the_best(scores, min_p):
    weights = weights_of(scores)

    result = filters.keep_min_p(weights, torch.tensor([min_p]))

    limit = torch.tensor(min_p).item()
    assert kept(result) == {i for i, w in enumerate(weights[0].tolist()) if w >= limit}


@given(score_rows, st.integers(1, 40))
def test_top_k_keeps_the_best_and_their_ties(scores, k):
    k = min(k, len(scores))

    result = filters.keep_top_k(weights_of(scores), torch.tensor([scores]), [k])

    last = sorted(scores, reverse=True)[k - 1]
    assert kept(result) == {i for i, s in enumerate(scores) if s >= last}


@given(score_rows, st.floats(0.001, 0.999))
def test_top_p_keeps_the_smallest_set_with_the_mass(scores, top_p):
    weights = weights_of(scores)

    result = filters.keep_top_p(weights, torch.tensor([top_p], dtype=torch.float64))

    mass = [int(w * 2**42) for w in weights[0].tolist()]
    wanted = top_p * sum(mass)
    # Walk down until enough is kept; the last one's ties stay.
    total, cutoff = 0, None
    for m in sorted(mass, reverse=True):
        if total >= wanted:
            break
        total, cutoff = total + m, m
    assert kept(result) == {i for i, m in enumerate(mass) if m >= cutoff}


@pytest.mark.parametrize("spread", [0.0, 0.5, 8.0], ids=["equal", "flat", "peaked"])
def test_top_p_of_a_large_vocabulary(spread):
    """Few and many kept tokens take different ways to find the last one."""
    torch.manual_seed(0)
    scores = torch.randn(3, 5000) * spread
    weights = filters.weigh(scores, scores.amax(-1), torch.ones(3))
    top_p = torch.tensor([0.1, 0.9, 0.999], dtype=torch.float64)

    result = filters.keep_top_p(weights, top_p)

    for row, p, left in zip(weights, top_p.tolist(), result, strict=True):
        probabilities = row.double() / row.double().sum()
        mass = probabilities[left > 0].sum().item()
        least = probabilities[left > 0].min()
        assert mass >= p - 1e-9
        assert mass - probabilities[probabilities == least].sum().item() < p
        assert (
            probabilities[left == 0].amax(0).item() <= least if (left == 0).any() else 1
        )


def test_each_row_has_its_own_numbers():
    scores = torch.tensor([[3.0, 2.0, 1.0, 0.0]] * 3)
    weights = filters.weigh(scores, scores.amax(-1), torch.ones(3))

    by_k = filters.keep_top_k(weights, scores, [1, 2, 4])
    by_p = filters.keep_top_p(weights, torch.tensor([0.1, 0.7, 1.0]))
    by_min = filters.keep_min_p(weights, torch.tensor([1.0, 0.2, 0.0]))

    assert (by_k > 0).sum(-1).tolist() == [1, 2, 4]
    assert (by_p > 0).sum(-1).tolist() == [1, 2, 4]
    assert (by_min > 0).sum(-1).tolist() == [1, 2, 4]


@given(
    st.lists(st.sampled_from([0.0, 1e-12, 1e-6, 0.3, 1.0]), min_size=1, max_size=30),
    st.randoms(use_true_random=False),
)
def test_a_draw_is_the_first_of_the_clocks(weights, random):
    weights = [1.0, *weights]
    times = [random.uniform(2.0**-32, 16.7) for _ in weights]

    drawn = filters.draw(torch.tensor([weights]), -torch.tensor([times])).item()

    rings = [t / w if w else math.inf for t, w in zip(times, weights, strict=True)]
    assert rings[drawn] == pytest.approx(min(rings), rel=1e-6)


@pytest.mark.parametrize("time", [2.0**-32, 16.7], ids=["lowest", "highest"])
@pytest.mark.parametrize(
    "weights",
    [[0.0, 0.0, 1.0, 0.0, 0.0], [0.0, 1.0, 0.9999999, 1e-45, 0.0]],
    ids=["one", "two"],
)
def test_a_token_without_probability_is_never_drawn(weights, time):
    clocks = torch.full((1, 5), -time)

    drawn = filters.draw(torch.tensor([weights]), clocks).item()

    assert weights[drawn] > 0.5
