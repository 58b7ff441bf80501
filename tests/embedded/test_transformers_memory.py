# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest
from embedded.tiny_models import make_model
from transformers import MambaConfig

from unillm.embedded.transformers.engine import TransformersSlotEngine
from unillm.embedded.transformers.memory import (
    KvShape,
    _free_group_bytes,
    check_model_len,
    estimate,
    free_bytes,
    plan_slots,
)
from unillm.errors import ConfigError, UnsupportedModelError


@pytest.mark.parametrize(("dtype", "item_bytes"), [("auto", 4), ("bfloat16", 2)])
def test_an_estimate_is_what_the_engine_takes(reference, family, dtype, item_bytes):
    estimated = estimate(
        reference.path(family), num_slots=3, max_model_len=100, dtype=dtype
    )

    model = make_model(family)
    engine = TransformersSlotEngine(model, num_slots=3, max_model_len=100)
    cache_bytes = sum(t.numel() * item_bytes for t in engine._cache.tensors)
    weight_bytes = sum(p.numel() * item_bytes for p in model.parameters())
    assert estimated.cache_bytes == cache_bytes
    assert estimated.kv_bytes_per_token == cache_bytes // (3 * 128)
    assert estimated.weight_bytes == weight_bytes
    assert estimated.total_bytes == cache_bytes + weight_bytes


def test_known_shape_of_llama_3_8b():
    """32 layers, 8 key-value heads of 128: 128 KiB a token in half precision."""
    shape = KvShape(layers=32, kv_heads=8, head_dim=128)

    assert shape.bytes_per_token(2) == 128 * 1024


@pytest.mark.parametrize(
    ("asked", "tokens_that_fit", "expected"),
    [
        ((None, None), 8 * 8192, (8, 8192)),
        ((None, None), 10**9, (8, 8192)),
        ((None, None), 8 * 5000, (8, 4992)),
        ((None, None), 3 * 4096, (3, 4096)),
        ((None, None), 10, (1, 4096)),
        ((100, None), 10**9, (8, 100)),
        ((100, None), 3 * 128, (3, 100)),
        ((None, 2), 2 * 6400, (2, 6400)),
        ((None, 500), 10, (500, 4096)),
        ((8192, 500), 10, (500, 8192)),
    ],
    ids=[
        "just fits",
        "ample",
        "shorter rows first",
        "then fewer slots",
        "one slot at least",
        "length given",
        "length given, fewer slots",
        "slots given, shorter rows",
        "slots given are kept",
        "all given is kept",
    ],
)
def test_what_is_left_open_is_made_to_fit(asked, tokens_that_fit, expected):
    max_model_len, max_num_seqs = asked

    plan = plan_slots(
        positions=8192,
        max_model_len=max_model_len,
        max_num_seqs=max_num_seqs,
        default_slots=8,
        free_bytes=tokens_that_fit * 2 * 10,  # half of it is for the cache
        bytes_per_token=10,
    )

    assert (plan.num_slots, plan.max_model_len) == expected


def test_a_model_with_few_positions_keeps_them():
    plan = plan_slots(
        positions=512,
        max_model_len=None,
        max_num_seqs=None,
        default_slots=8,
        free_bytes=10,
        bytes_per_token=10,
    )

    assert (plan.num_slots, plan.max_model_len) == (1, 512)


def test_more_length_than_the_model_has_is_refused_with_both_numbers():
    check_model_len(None, positions=512)
    check_model_len(512, positions=512)
    with pytest.raises(ConfigError, match=r"max_model_len=513 .* 512 positions"):
        check_model_len(513, positions=512)


def test_free_memory_respects_the_containers_limit(tmp_path):
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("400\n")

    assert _free_group_bytes(tmp_path) == 600

    (tmp_path / "memory.max").write_text("max\n")
    assert _free_group_bytes(tmp_path) == float("inf")
    assert _free_group_bytes(tmp_path / "nowhere") == float("inf")


def test_some_memory_is_free():
    assert free_bytes(make_model("llama").device) > 2**20


def test_a_model_without_attention_heads_has_no_shape():
    with pytest.raises(UnsupportedModelError, match="'mamba' has no key-value cache"):
        KvShape.of(MambaConfig())
