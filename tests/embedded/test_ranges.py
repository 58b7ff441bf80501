# SPDX-License-Identifier: Apache-2.0

"""The kernel for ranges gives what scaled dot-product attention gives."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from unillm.embedded import ranges
from unillm.embedded.ranges import Kernel

CAPACITY = 704
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


def attended(
    *,
    dtype=torch.float32,
    heads=6,
    kv_heads=2,
    dim=64,
    value_dim=64,
    scale=None,
    cap=None,
    spans=((0, 0, 1), (1, 0, 300), (1, 37, 294), (3, 0, 704), (2, 255, 257)),
):
    """Return what the kernel gives, and what a loop over tokens gives in float64."""
    torch.manual_seed(0)
    query = torch.randn(1, heads, len(spans), dim, dtype=dtype)
    key = torch.randn(4, kv_heads, CAPACITY, dim, dtype=dtype)
    value = torch.randn(4, kv_heads, CAPACITY, value_dim, dtype=dtype)
    key[0, :, 1:] = torch.nan  # shows in a token that reads beyond its range

    given = ranges.attend(
        query, key, value, torch.tensor(spans).T[None, None], scale, cap=cap
    )

    wanted = []
    for number, (row, first, end) in enumerate(spans):
        seen = [
            each[row, :, first:end]
            .repeat_interleave(heads // kv_heads, dim=0)
            .to(torch.float64)
            for each in (key, value)
        ]
        asked = query[0, :, number, None].to(torch.float64)
        if cap is None:
            wanted.append(scaled_dot_product_attention(asked, *seen, scale=scale))
            continue
        scores = asked @ seen[0].transpose(1, 2) * (scale or dim**-0.5)
        wanted.append((cap * (scores / cap).tanh()).softmax(-1) @ seen[1])
    return given, torch.cat(wanted, dim=1)[None]


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_each_token_attends_to_its_range(dtype):
    given, wanted = attended(dtype=dtype)

    tolerance = TOLERANCES[dtype]
    assert given.dtype == dtype
    torch.testing.assert_close(given.double(), wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "options",
    [
        {"heads": 2},  # one query for each key
        {"heads": 8},  # as many as are multiplied together
        {"heads": 18},  # more
        {"dim": 20, "value_dim": 20},  # no whole number of vectors
        {"dim": 96, "value_dim": 40},
        {"scale": 0.3},
        {"cap": 0.5},
        {"cap": 30.0, "scale": 2.0},
    ],
    ids=str,
)
def test_sizes_scales_and_caps(options):
    given, wanted = attended(**options)

    torch.testing.assert_close(given.double(), wanted, rtol=1e-5, atol=1e-5)


def test_threads_share_tokens_and_the_parts_of_long_ranges():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        given, wanted = attended()
    finally:
        torch.set_num_threads(threads)

    torch.testing.assert_close(given.double(), wanted, rtol=1e-5, atol=1e-5)


def test_rows_of_a_step_are_the_leading_ones_of_the_cache():
    torch.manual_seed(0)
    query = torch.randn(3, 4, 1, 16)
    key, value = torch.randn(2, 3, 4, 64, 16)
    lengths = torch.tensor([1, 64, 9])
    spans = torch.stack([torch.arange(3), torch.zeros_like(lengths), lengths])

    given = ranges.attend(query, key, value, spans[None, None], None, cap=None)

    for row, length in enumerate(lengths):
        seen = key[row, None, :, :length], value[row, None, :, :length]
        wanted = scaled_dot_product_attention(query[row, None], *seen)
        torch.testing.assert_close(given[row, None], wanted, rtol=1e-5, atol=1e-5)


def test_what_another_process_has_built_is_loaded(monkeypatch):
    kernel = Kernel(torch.float32, group=1, dim=16, value_dim=16)
    path = kernel.build()
    monkeypatch.setattr(ranges, "_functions", {})
    monkeypatch.setattr(Kernel, "build", lambda _: pytest.fail("it is built again"))

    kernel.load(path)

    test_rows_of_a_step_are_the_leading_ones_of_the_cache()
