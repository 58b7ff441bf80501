# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sampling.slow_noise import ring_time

from unillm.sampling.noise import exponential_clocks, spread
from unillm.sampling.seeds import _GOLDEN_GAMMA, _WORD, keys_of, mix

CPU = torch.device("cpu")


def times_of(draws, vocab_size):
    keys = torch.tensor([keys_of(*draw) for draw in draws], dtype=torch.int32)
    return -exponential_clocks(keys, spread(vocab_size, CPU))


def chi_square(counts, expected):
    return sum((count - expected) ** 2 / expected for count in counts)


def test_words_are_those_of_splitmix64():
    """The sequence of seed 1234567, as it is published on Rosetta Code."""
    words = [mix((1234567 + (i + 1) * _GOLDEN_GAMMA) & _WORD) for i in range(5)]

    assert words == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@given(st.integers(-(2**70), 2**70), st.integers(0, 2**20), st.integers(0, 999))
def test_times_are_those_of_plain_python(seed, step, token_id):
    [times] = times_of([(seed, step)], 1000)

    expected = ring_time(seed, step, token_id)
    assert times[token_id].item() == pytest.approx(expected, rel=1e-5)
    assert times.min() > 0
    assert times.max() < math.inf


def test_only_the_lowest_64_bits_of_the_seed_count():
    assert keys_of(-1, 0) == keys_of(2**64 - 1, 0)


def test_no_two_of_many_draws_have_the_same_keys():
    keys = {keys_of(seed, step) for seed in range(200) for step in range(200)}

    assert len(keys) == 40_000


@pytest.mark.parametrize(
    "draws",
    [
        [(seed, 0) for seed in range(-100, 100)],
        [(7, step) for step in range(200)],
        [(2**40 * seed, seed) for seed in range(200)],
    ],
    ids=["seeds", "steps", "both"],
)
def test_times_are_distributed_exponentially(draws):
    uniform = 1 - (-times_of(draws, 500)).exp()

    counts = torch.histc(uniform, bins=20, min=0, max=1).tolist()

    # χ² with 19 degrees of freedom is under 43.8 with probability 0.999.
    assert chi_square(counts, uniform.numel() / 20) < 43.8


@pytest.mark.parametrize(
    ("draws", "shift"),
    [
        ([(seed, 0) for seed in range(401)], 0),
        ([(7, step) for step in range(401)], 0),
        ([(7, step) for step in range(401)], 1),
    ],
    ids=["seeds", "steps", "next token"],
)
def test_neighbours_are_independent(draws, shift):
    """Pairs of neighbours fill a square evenly."""
    uniform = 1 - (-times_of(draws, 500)).exp()
    here, there = uniform[:-1, : 500 - shift], uniform[1:, shift:]

    cells = (here * 10).long() * 10 + (there * 10).long()

    # χ² with 99 degrees of freedom is under 148.2 with probability 0.999.
    counts = torch.bincount(cells.clamp(max=99).flatten(), minlength=100).tolist()
    assert chi_square(counts, cells.numel() / 100) < 148.2


def test_the_first_clock_of_a_row_may_be_that_of_any_token():
    draws = [(seed, step) for seed in range(100) for step in range(100)]

    first = times_of(draws, 50).argmin(-1)

    # χ² with 49 degrees of freedom is under 85.4 with probability 0.999.
    assert chi_square(torch.bincount(first, minlength=50).tolist(), 200) < 85.4
