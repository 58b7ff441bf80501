# SPDX-License-Identifier: Apache-2.0

"""The cache of an engine: whether its rows may be several, and whether it fits."""

from __future__ import annotations

from typing import Any

from ..errors import ConfigError
from ..model.memory import Limits, MemoryNeeds
from ..model.sizes import KvShape
from .cache import SlotCache
from .families import family_of
from .memory import free_bytes, out_of_memory
from .recurrent import layers_of_one_row


def check_slots(model: Any, num_slots: int) -> None:
    """Refuse more than one slot of a family whose rows would not be independent."""
    reason = family_of(model.config).one_at_a_time
    if num_slots > 1 and reason:
        raise ConfigError(
            f"max_num_seqs={num_slots} was asked for, and {model.config.model_type!r} "
            f"is served one request at a time: {reason}. Pass max_num_seqs=1, or leave "
            "it out."
        )


def allocate(model: Any, needs: MemoryNeeds, limits: Limits) -> SlotCache:
    """Return the cache; raise `EngineOutOfMemoryError` if it does not fit."""
    needed = needs.estimate(limits)
    too_much = out_of_memory(
        "The cache does not fit",
        needs=needs,
        limits=limits,
        device=model.device,
        loaded_bytes=needs.weight_bytes,
    )
    # An operating system that overcommits would grant the memory, and kill the process
    # that writes to it.
    if needed.cache_bytes > free_bytes(model.device):
        raise too_much
    try:
        return SlotCache(
            KvShape.of(model.config),
            num_rows=limits.max_num_seqs,
            max_model_len=limits.max_model_len,
            dtype=model.dtype,
            device=model.device,
            one_row=layers_of_one_row(model),
            argument=family_of(model.config).cache_argument,
        )
    except RuntimeError as error:
        raise too_much from error
