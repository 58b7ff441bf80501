# SPDX-License-Identifier: Apache-2.0

"""Reasoning of a chat: readers that split it off from the answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from .bodies import ChatBody
from .parts import PartReader

REASONING_READERS: Mapping[str, Callable[[ChatBody], PartReader]] = MappingProxyType({})
"""Makes a reader of reasoning for one answer, by the name of ``--reasoning-parser``."""
