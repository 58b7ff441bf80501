# SPDX-License-Identifier: Apache-2.0

"""The requests of the tests."""

from __future__ import annotations

from unillm import SamplingParams

TINY = {"backend": "transformers", "dtype": "float32", "max_num_seqs": 8}
GREEDY = SamplingParams(temperature=0, max_tokens=60)


def prompts(count):
    """Prompts whose answers have many lengths."""
    return [
        f"Count from {i % 90} to {i % 90 + i % 10}:"
        if i % 2
        else f"Add {i % 50} and {i // 50}:"
        for i in range(count)
    ]
