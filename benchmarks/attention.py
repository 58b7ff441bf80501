# SPDX-License-Identifier: Apache-2.0

"""Attention of one decode step on a CPU: the kernel, FlexAttention and SDPA in turn.

    python benchmarks/attention.py [--kv-heads 4] [--rounds 60]

Eight rows of one length attend in each of eight layers, and other memory is read before
each call, as the weights of a model are. Prints medians in µs; the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from unillm.embedded import ranges

ROWS, GROUP, DIM, CAPACITY, BLOCK = 8, 3, 64, 704, 64
LENGTHS = (50, 250, 500)
READ_BETWEEN = 12_000_000
"""Numbers of float32: 48 MB, more than the caches of these machines."""

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def ways(length: int) -> Mapping[str, Attend]:
    """Return ways to attend to the first *length* positions of each row."""
    positions = torch.full((ROWS,), length - 1)
    seen = torch.stack([torch.arange(ROWS), torch.zeros(ROWS).long(), positions + 1])
    end = -(-length // BLOCK) * BLOCK
    hidden = torch.arange(end) >= length
    mask = torch.zeros(end).masked_fill(hidden, -torch.inf).expand(ROWS, 1, 1, end)

    def kernel(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        flat = query.view(ROWS, -1, 1, DIM)
        found = ranges.attend(flat, key, value, seen[None, None], None, cap=None)
        return found.reshape(query.shape)

    def sdpa(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        keys, values = key[:, :, :end], value[:, :, :end]
        return scaled_dot_product_attention(query, keys, values, attn_mask=mask)

    block_mask = _block_mask(positions)
    compiled = torch.compile(flex_attention, dynamic=False)

    def flex(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return compiled(query, key, value, block_mask=block_mask)

    return {"kernel": kernel, "FlexAttention": flex, "SDPA": sdpa}


def _block_mask(positions: Tensor) -> BlockMask:
    numbers = torch.arange(CAPACITY // BLOCK, dtype=torch.int32).expand(ROWS, 1, 1, -1)
    count = (positions // BLOCK + 1).view(ROWS, 1, 1).to(torch.int32)
    return BlockMask.from_kv_blocks(
        count,
        numbers.contiguous(),
        BLOCK_SIZE=(128, BLOCK),
        mask_mod=lambda row, _head, _query, key: key <= positions[row],
        seq_lengths=(GROUP, CAPACITY),
        compute_q_blocks=False,
    )


def measure(length: int, *, kv_heads: int, rounds: int) -> dict[str, float]:
    """Return the median of each way, in µs."""
    torch.manual_seed(0)
    size = (8, 2, ROWS, kv_heads, CAPACITY, DIM)
    layers = [(keys, values) for keys, values in torch.randn(size)]
    query = torch.randn(ROWS, kv_heads, GROUP, DIM)
    others = torch.ones(READ_BETWEEN)
    made = ways(length)
    found = [attend(query, *layers[0]) for attend in made.values()]
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-4, atol=1e-4)
    seconds: dict[str, list[float]] = {name: [] for name in made}
    for number in range(rounds):
        for name, attend in made.items():
            others.sum()
            start = time.perf_counter()
            attend(query, *layers[number % len(layers)])
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(each) * 1e6 for name, each in seconds.items()}


def main() -> None:
    """Measure all lengths."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kv-heads", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args()
    conditions = {
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "torch": torch.__version__,
        **vars(options),
    }
    print(conditions)
    with torch.inference_mode():
        results = {
            length: measure(length, kv_heads=options.kv_heads, rounds=options.rounds)
            for length in LENGTHS
        }
    for length, medians in results.items():
        shown = ", ".join(f"{name} {each:.0f} µs" for name, each in medians.items())
        print(f"{length} positions: {shown}")
    print(json.dumps({"conditions": conditions, "results": results}))


if __name__ == "__main__":
    main()
