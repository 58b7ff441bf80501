# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unillm.model.find import find_model
from unillm.model.memory import GIB, Limits, MemoryNeeds, memory_needs, out_of_memory

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


def test_parts_are_counted_with_all_requests_full():
    estimate = NEEDS.estimate(LIMITS)

    assert estimate.weight_bytes == 1000
    assert estimate.cache_bytes == 4 * 112 * 2 + 4 * 11  # in blocks of 16
    assert estimate.activation_bytes == 32 * 3 + 32 * 100
    assert estimate.workspace_bytes == 7
    assert estimate.total_bytes == 1000 + 940 + 3296 + 7


def test_a_step_has_a_token_of_each_request_at_least():
    limits = attrs.evolve(LIMITS, max_num_batched_tokens=1)

    assert NEEDS.estimate(limits).activation_bytes == 4 * 3 + 4 * 100


def test_logits_count_where_they_are_more_than_the_layers_need():
    needs = attrs.evolve(NEEDS, logit_bytes_per_seq=10_000)

    assert needs.estimate(LIMITS).activation_bytes == 4 * 10_000


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


# ------------------------------------------------------------------ what does not fit

LLAMA_3_8B = MemoryNeeds(
    weight_bytes=16 * GIB,
    kv_bytes_per_token=2**17,
    activation_bytes_per_token=2**17,
    logit_bytes_per_seq=0,
    block_size=64,
)
"""Nearly: a GiB holds 8192 tokens, of the cache and of a step."""
ASKED = Limits(max_num_seqs=8, max_model_len=8192, max_num_batched_tokens=2048)


def explain(free: float, **facts) -> str:
    return str(
        out_of_memory(
            "It does not fit",
            needs=LLAMA_3_8B,
            limits=ASKED,
            free=int(free * GIB),
            device="cuda:1",
            **facts,
        )
    )


def test_what_does_not_fit_is_told_with_all_numbers_and_what_would():
    assert explain(6, loaded_bytes=16 * GIB) == (
        "It does not fit: weights 16.00 GiB, cache 8.00 GiB (131,072 bytes a token), "
        "activations 0.25 GiB, for max_num_seqs=8, max_model_len=8192, "
        "max_num_batched_tokens=2048; 6.00 GiB are free on cuda:1 beside what is "
        "loaded. By this estimate what fits is max_num_seqs=4 or max_model_len=4736, "
        "each with the others as they are."
    )


@pytest.mark.parametrize(
    ("free", "asked", "expected"),
    [
        (20, 2, "max_num_seqs=6 or max_model_len=6144,"),
        (20, 0.1, "max_num_batched_tokens=1228,"),
        (20, 9, "Nothing of it fits: use lower limits together"),
        (9, 0, "max_num_seqs=8 or max_model_len=8192 or max_num_batched_tokens=2048,"),
    ],
    ids=["a cache smaller by it", "a step smaller by it", "too much", "it should fit"],
)
def test_what_fits_leaves_room_for_what_was_asked(free, asked, expected):
    message = explain(free, loaded_bytes=24 * GIB, asked=int(asked * GIB))

    assert expected in message
    assert (f"{asked:.2f} GiB more were asked for" in message) == bool(asked)


def test_nothing_fits_beside_weights_that_do_not_fit_either():
    message = explain(4)

    assert "4.00 GiB are free on cuda:1. Nothing of it fits" in message
