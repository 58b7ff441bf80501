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
    "one probable token": np.array([0.5] + [0.02] * 25),
    "two probable tokens": np.array([0.4, 0.3] + [0.02] * 15),
}


def frequencies(shapes, number, *, completions=300, tokens=20):
    """Count the draws of an engine, which takes *number* of a seed and a position."""
    found = Frequencies()
    for index in range(completions):
        seed = 3 * (index // 2) + index % 2  # neighbours in pairs
        request = SimpleNamespace(
            seed=seed, request_id=str(index), params=PARAMS, bad_words_token_ids=()
        )
        for position in range(tokens):
            probabilities = shapes[(index + position) % len(shapes)]
            place = np.searchsorted(np.cumsum(probabilities), number(seed, position))
            found.add(
                SimpleNamespace(
                    request=request,
                    position=position,
                    token_id=min(int(place), len(probabilities) - 1),
                    probabilities=probabilities,
                )
            )
    return found


def independent(seed, position):
    return random.Random(f"{seed} {position}").random()


MIXED = [*SHAPES.values()]


@pytest.mark.parametrize("shapes", [*([each] for each in SHAPES.values()), MIXED])
def test_independent_draws_are_even(shapes):
    found = frequencies(shapes, independent)

    assert found.uneven(all_groups=True) is None
    assert found.groups["neighbouring seeds",].total > FEWEST_IN_BINS


@pytest.mark.parametrize("lag", LAGS)
def test_a_number_that_comes_again_is_found(lag):
    found = frequencies(MIXED, lambda seed, at: independent(seed, at % lag))

    assert found.groups[f"draws {lag} apart",].probability() < 1e-12


def test_one_number_of_neighbouring_seeds_is_found():
    found = frequencies(MIXED, lambda seed, at: independent(seed // 3, at))

    assert found.groups["neighbouring seeds",].probability() < 1e-12
