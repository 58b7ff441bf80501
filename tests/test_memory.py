# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unillm.memory import (
    GIB,
    Limits,
    MemoryEstimate,
    MemoryNeeds,
    memory_needs,
    out_of_memory,
)
from unillm.models import find_model

NEEDS = MemoryNeeds(
    weight_bytes=1000,
    kv_bytes_per_token=2,
    activation_bytes_per_token=3,
    logit_bytes_per_seq=5,
    workspace_bytes=7,
    block_size=16,
)
LIMITS = Limits(max_num_seqs=4, max_model_len=100, max_num_batched_tokens=32)


def test_parts_are_counted_with_all_requests_full():
    estimate = NEEDS.estimate(LIMITS)

    assert estimate.weight_bytes == 1000
    assert estimate.cache_bytes == 4 * 112 * 2  # in blocks of 16
    assert estimate.activation_bytes == 32 * 3 + 4 * 5
    assert estimate.workspace_bytes == 7
    assert estimate.total_bytes == 1000 + 896 + 116 + 7


def test_a_step_has_a_token_of_each_request_at_least():
    limits = attrs.evolve(LIMITS, max_num_batched_tokens=1)

    assert NEEDS.estimate(limits).activation_bytes == 4 * 3 + 4 * 5


def test_what_is_asked_for_is_the_largest_that_is_told():
    assert NEEDS.largest(LIMITS, 10**9) == attrs.asdict(LIMITS)


def test_nothing_fits_beside_weights_that_do_not_fit():
    assert NEEDS.largest(LIMITS, 999) == dict.fromkeys(attrs.asdict(LIMITS), 0)


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
    largest = NEEDS.largest(limits, memory_bytes)

    for name, value in largest.items():
        asked = getattr(limits, name)
        if value:
            changed = attrs.evolve(limits, **{name: value})
            assert NEEDS.estimate(changed).total_bytes <= memory_bytes
        if value < asked:
            changed = attrs.evolve(limits, **{name: value + 1})
            assert NEEDS.estimate(changed).total_bytes > memory_bytes


def test_needs_are_read_from_a_model_directory():
    needs = memory_needs(find_model("unillm/tiny"))

    assert needs.weight_bytes > 2**20
    assert needs.kv_bytes_per_token == 2 * 4 * 2 * 32 * 4
    assert memory_needs(
        find_model("unillm/tiny"), dtype="float16"
    ).weight_bytes * 2 == (needs.weight_bytes)


def test_any_backend_can_say_what_does_not_fit():
    error = out_of_memory(
        "The engine ran out of memory",
        needed=MemoryEstimate(
            weight_bytes=10 * GIB, kv_bytes_per_token=2**17, cache_bytes=8 * GIB
        ),
        num_slots=8,
        max_model_len=8192,
        free=16 * GIB,
        device="cuda:1",
    )

    assert "16.00 GiB are free on cuda:1" in str(error)
    assert "max_num_seqs=3 with this length, or max_model_len=3072" in str(error)
