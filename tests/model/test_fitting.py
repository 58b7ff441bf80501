# SPDX-License-Identifier: Apache-2.0

"""The limits that fit a memory, and the error that names them."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unillm.model.fitting import (
    SMALLEST,
    largest_limits,
    largest_together,
    out_of_memory,
)
from unillm.model.memory import GIB, Limits, MemoryNeeds

NEEDS = MemoryNeeds(
    weight_bytes=1000,
    kv_bytes_per_token=2,
    activation_bytes_per_token=3,
    pair_bytes=1,
    state_bytes_per_seq=11,
    logit_bytes_per_seq=5,
    workspace_bytes=7,
    block_size=16,
)
LIMITS = Limits(max_num_seqs=4, max_model_len=100, max_num_batched_tokens=32)


def test_no_limit_exceeds_the_wanted_one():
    assert largest_limits(NEEDS, LIMITS, 10**9) == attrs.asdict(LIMITS)


def test_nothing_fits_beside_weights_that_do_not_fit():
    assert largest_limits(NEEDS, LIMITS, 999) == {}


@given(
    limits=st.builds(
        Limits,
        max_num_seqs=st.integers(1, 300),
        max_model_len=st.integers(1, 5000),
        max_num_batched_tokens=st.integers(1, 5000),
    ),
    memory_bytes=st.integers(1000, 10**6),
)
@pytest.mark.property
def test_the_largest_fits_and_one_more_does_not(limits, memory_bytes):
    largest = largest_limits(NEEDS, limits, memory_bytes)

    def takes(name, value):
        return NEEDS.estimate(attrs.evolve(limits, **{name: value})).total_bytes

    for name, asked in attrs.asdict(limits).items():
        least = getattr(SMALLEST, name)
        value = largest.get(name, least - 1)
        if name in largest:
            assert value >= least
            assert takes(name, value) <= memory_bytes
        if value < asked:
            assert takes(name, value + 1) > memory_bytes


def test_limits_are_lowered_together_where_one_is_not_enough():
    together = largest_together(NEEDS, LIMITS, 1300)

    assert largest_limits(NEEDS, LIMITS, 1300) == {}
    assert together is not None
    assert NEEDS.estimate(together).total_bytes <= 1300
    assert largest_together(NEEDS, LIMITS, 999) is None


# ------------------------------------------------------------------------ the message

LLAMA_3_8B = MemoryNeeds(
    weight_bytes=16 * GIB,
    kv_bytes_per_token=2**17,
    activation_bytes_per_token=2**17,
    logit_bytes_per_seq=0,
    block_size=64,
)
"""Nearly: a GiB holds 8192 tokens, of the cache and of a step."""
WANTED = Limits(max_num_seqs=8, max_model_len=8192, max_num_batched_tokens=2048)


def explain(free: float, **facts) -> str:
    return str(
        out_of_memory(
            "It does not fit",
            needs=LLAMA_3_8B,
            limits=WANTED,
            free=int(free * GIB),
            device="cuda:1",
            **facts,
        )
    )


def test_the_message_has_all_numbers_and_the_limits_that_fit():
    assert explain(6, loaded_bytes=16 * GIB) == (
        "It does not fit: weights 16.00 GiB, cache 8.00 GiB (131,072 bytes a token), "
        "activations 0.25 GiB, for max_num_seqs=8, max_model_len=8192, "
        "max_num_batched_tokens=2048; 6.00 GiB are free on cuda:1 beside the loaded "
        "model. By this estimate, max_num_seqs=4 or max_model_len=4736 fits, each with "
        "the other limits unchanged."
    )


@pytest.mark.parametrize(
    ("free", "asked", "expected"),
    [
        (20, 2, "max_num_seqs=6 or max_model_len=6144 fits"),
        (20, 0.1, "max_num_batched_tokens=1228 fits"),
        (20, 9, "Lowering one limit is not enough: lower several"),
        (9, 0, "max_num_seqs=8 or max_model_len=8192 or max_num_batched_tokens=2048"),
    ],
    ids=["a smaller cache", "a smaller step", "too much", "the estimate fits"],
)
def test_the_limits_leave_room_for_the_failed_allocation(free, asked, expected):
    message = explain(free, loaded_bytes=24 * GIB, asked=int(asked * GIB))

    assert expected in message
    assert (f"allocation asked for {asked:.2f} GiB more" in message) == bool(asked)


def test_no_limit_fits_beside_weights_that_do_not_fit():
    message = explain(4)

    assert "4.00 GiB are free on cuda:1. Lowering one limit is not enough" in message
