# SPDX-License-Identifier: Apache-2.0

"""`Prefixes`: the beginnings of prompts that replicas have computed before."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from ..engines.base import EngineRequest

BLOCK = 16
"""Tokens of a block; engines cache prompts in blocks of this size or a multiple."""

MAX_BLOCKS = 32
"""Blocks of a prompt that count: two prompts with so many in common are one family."""

MAX_KNOWN = 8192
"""Prefixes that are remembered; the longest unused is forgotten."""


class Prefixes:
    """Which replica has last computed a prompt with the same beginning."""

    def __init__(self) -> None:
        self._replicas: OrderedDict[int, int] = OrderedDict()

    def match(self, keys: Sequence[int]) -> tuple[int | None, int]:
        """Return the replica of the longest common beginning, and its blocks."""
        for count in range(len(keys), 0, -1):
            replica = self._replicas.get(keys[count - 1])
            if replica is not None:
                return replica, count
        return None, 0

    def record(self, keys: Sequence[int], replica: int) -> None:
        """Remember the replica that computes a prompt."""
        for key in keys:
            self._replicas[key] = replica
            self._replicas.move_to_end(key)
        while len(self._replicas) > MAX_KNOWN:
            self._replicas.popitem(last=False)

    def forget(self, replica: int) -> None:
        """Drop all prefixes of a replica, whose cache is gone."""
        for key in [k for k, each in self._replicas.items() if each == replica]:
            del self._replicas[key]


def keys_of(request: EngineRequest) -> list[int]:
    """Return a key for each beginning of a prompt that is a number of whole blocks.

    Prompts of different adapters and salts have nothing in common.
    """
    ids = request.prompt_token_ids
    adapter = request.lora_request
    key = hash((request.cache_salt, adapter and adapter.lora_int_id))
    keys = []
    for start in range(0, min(len(ids), BLOCK * MAX_BLOCKS) - BLOCK + 1, BLOCK):
        key = hash((key, ids[start : start + BLOCK]))
        keys.append(key)
    return keys
