# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from unillm.sampling.uniform import _GOLDEN_GAMMA, _WORD, _mix, uniform


def test_words_are_those_of_splitmix64():
    """The sequence of seed 1234567, as it is published on Rosetta Code."""
    words = [_mix((1234567 + (i + 1) * _GOLDEN_GAMMA) & _WORD) for i in range(5)]

    assert words == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@given(st.integers(-(2**70), 2**70), st.integers(0, 2**20))
def test_numbers_are_in_the_unit_interval_and_repeat(seed, step):
    number = uniform(seed, step)

    assert 0.0 <= number < 1.0
    assert number == uniform(seed, step)


def test_neighbours_in_seed_and_step_are_spread_evenly():
    bins = [0] * 20

    for seed in range(-100, 100):
        for step in range(100):
            bins[int(uniform(seed, step) * 20)] += 1

    # χ² with 19 degrees of freedom is under 43.8 with probability 0.999.
    assert sum((count - 1000) ** 2 / 1000 for count in bins) < 43.8


def test_no_two_of_many_numbers_are_equal():
    numbers = {uniform(seed, step) for seed in range(200) for step in range(200)}

    assert len(numbers) == 40_000


def test_only_the_lowest_64_bits_of_the_seed_count():
    assert uniform(-1, 0) == uniform(2**64 - 1, 0)
