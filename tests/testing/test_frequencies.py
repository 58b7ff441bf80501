# SPDX-License-Identifier: Apache-2.0

"""Frequencies of drawn tokens: independent draws pass, and repeated numbers do not."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest

from unillm import SamplingParams
from unillm.testing.randomised.frequencies import (
    FEWEST_IN_BINS,
    LAGS,
    Frequencies,
)

PARAMS = SamplingParams(temperature=1.0)
SHAPES = {
    "flat": np.full(25, 1 / 25),
    "one probable token": np.array([0.02] * 15 + [0.5] + [0.02] * 10),
    "two probable tokens": np.array([0.02] * 5 + [0.4] + [0.01, 0.03] * 5 + [0.3]),
}


def draw(seed, position, token_id, probabilities):
    request = SimpleNamespace(
        seed=seed, request_id=str(seed), params=PARAMS, bad_words_token_ids=()
    )
    return SimpleNamespace(
        request=request,
        position=position,
        token_id=token_id,
        probabilities=probabilities,
    )


def frequencies(shapes, number, order="id", *, completions=300, tokens=20):
    """Count the draws of an engine.

    It looks up the *number* of a seed and a position in the sum of the probabilities.
    """
    found = Frequencies()
    for index in range(completions):
        seed = 3 * (index // 2) + index % 2  # neighbours in pairs
        for position in range(tokens):
            probabilities = shapes[(index + position) % len(shapes)]
            ids = np.arange(len(probabilities))
            if order == "probability":
                ids = np.argsort(-probabilities, kind="stable")
            sums = np.cumsum(probabilities[ids])
            place = np.searchsorted(sums, number(seed, position) * sums[-1])
            found.add(draw(seed, position, int(ids[place]), probabilities))
    return found


def independent(seed, position):
    return random.Random(f"{seed} {position}").random()


MIXED = [*SHAPES.values()]


@pytest.mark.parametrize("shapes", [*([each] for each in SHAPES.values()), MIXED])
def test_independent_draws_are_even(shapes):
    found = frequencies(shapes, independent)

    assert found.uneven(all_groups=True) is None
    assert found.groups["neighbouring seeds by id",].total > FEWEST_IN_BINS


def test_a_token_at_the_border_of_a_filter_counts_without_a_pair():
    found = Frequencies()

    for position in range(2):
        found.add(draw(0, position, 2, np.array([0.5, 0.5, 0.0])))

    assert found.groups[()].total == 2
    assert not any("apart" in name for key in found.groups for name in key)


@pytest.mark.parametrize("order", ["id", "probability"])
@pytest.mark.parametrize("lag", LAGS)
def test_a_number_that_comes_again_is_found(lag, order):
    found = frequencies(MIXED, lambda seed, at: independent(seed, at % lag), order)

    assert found.groups[f"draws {lag} apart by {order}",].probability() < 1e-12


@pytest.mark.parametrize("order", ["id", "probability"])
def test_one_number_of_neighbouring_seeds_is_found(order):
    found = frequencies(MIXED, lambda seed, at: independent(seed // 3, at), order)

    assert found.groups[f"neighbouring seeds by {order}",].probability() < 1e-12
