# SPDX-License-Identifier: Apache-2.0

"""Estimates of memory, by part."""

from __future__ import annotations

import attrs

from unillm.model.find import find_model
from unillm.model.memory import Limits, MemoryNeeds, memory_needs

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


def test_parts_are_counted_with_all_requests_at_full_length():
    estimate = NEEDS.estimate(LIMITS)

    assert estimate.weight_bytes == 1000
    assert estimate.cache_bytes == 4 * 112 * 2 + 4 * 11  # in blocks of 16
    assert estimate.activation_bytes == 32 * 3 + 32 * 100
    assert estimate.workspace_bytes == 7
    assert estimate.total_bytes == 1000 + 940 + 3296 + 7


def test_a_step_has_at_least_one_token_of_each_request():
    limits = attrs.evolve(LIMITS, max_num_batched_tokens=1)

    assert NEEDS.estimate(limits).activation_bytes == 4 * 3 + 4 * 100


def test_logits_count_where_they_need_more_than_the_layers():
    needs = attrs.evolve(NEEDS, logit_bytes_per_seq=10_000)

    assert needs.estimate(LIMITS).activation_bytes == 4 * 10_000


def test_needs_are_read_from_a_model_directory():
    path = find_model("unillm/tiny")

    needs = memory_needs(path)

    assert needs.weight_bytes > 2**20
    assert needs.kv_bytes_per_token == 2 * 4 * 2 * 32 * 4
    assert needs.weight_bytes == 2 * memory_needs(path, dtype="float16").weight_bytes
