# SPDX-License-Identifier: Apache-2.0

"""How many slots of which length fit a device, and how torch says that memory ran out.

What a model takes is `unillm.memory`'s; here torch is asked how much of a GPU is free.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import attrs

from ... import memory
from ...errors import ConfigError, EngineOutOfMemoryError
from ...memory import ALIGNMENT, CACHE_SHARE, GIB, MemoryEstimate, round_up

DEFAULT_SLOTS = {"cpu": 8, "cuda": 64}
"""What a decode step still serves at nearly the price of one row."""

SHORTEST_DEFAULT = 4096
"""Positions that a row has even if fewer slots then fit, unless the model has fewer."""


# --------------------------------------------------------------------------- what fits


@attrs.frozen(kw_only=True)
class SlotPlan:
    """How many rows of how many positions."""

    num_slots: int
    max_model_len: int


def check_model_len(max_model_len: int | None, *, positions: int) -> None:
    """Raise `ConfigError` if a row would be longer than the model has positions."""
    if max_model_len is not None and max_model_len > positions:
        raise ConfigError(
            f"max_model_len={max_model_len} is more than the {positions} positions "
            f"that the model was made for. Pass max_model_len={positions} or less."
        )


def plan_slots(
    *,
    positions: int,
    max_model_len: int | None,
    max_num_seqs: int | None,
    default_slots: int,
    free_bytes: int,
    bytes_per_token: int,
) -> SlotPlan:
    """Fill in what the user left open, so that the cache fits `CACHE_SHARE` of memory.

    What is given is kept, whatever it takes. A length that is not given is the model's,
    or as many positions as fit with the default number of slots, but not less than
    `SHORTEST_DEFAULT`; a number of slots that is not given is the default, or as many
    as fit with that length, but at least one.

    Args:
        positions: Positions that the model knows.
        max_model_len: What the user asked, or `None`.
        max_num_seqs: What the user asked, or `None`.
        default_slots: Rows, if they fit.
        free_bytes: Memory that is free once the weights are loaded.
        bytes_per_token: Of keys and values.
    """
    tokens = int(free_bytes * CACHE_SHARE) // bytes_per_token
    length = max_model_len
    if length is None:
        fits = tokens // (max_num_seqs or default_slots) // ALIGNMENT * ALIGNMENT
        length = min(positions, max(fits, SHORTEST_DEFAULT))
    slots = max_num_seqs
    if slots is None:
        slots = max(1, min(default_slots, tokens // round_up(length)))
    return SlotPlan(num_slots=slots, max_model_len=length)


# ------------------------------------------------------------------ what does not fit

_ASKED = re.compile(r"[Tt]ried to allocate (?P<amount>[\d.]+) (?P<unit>bytes|[KMGT]iB)")
_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": GIB, "TiB": 2**40}


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out."""
    import torch

    # On the CPU, torch raises a plain RuntimeError.

    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError)
        and ("can't allocate memory" in str(error) or "out of memory" in str(error))
    )


def asked_bytes(error: BaseException) -> int:
    """Return what an allocation that failed asked for; 0 if its error does not say."""
    found = _ASKED.search(str(error))
    return int(float(found["amount"]) * _UNITS[found["unit"]]) if found else 0


def out_of_memory(
    what: str, *, device: Any, needed: MemoryEstimate, **facts: Any
) -> EngineOutOfMemoryError:
    """Make the error of whatever did not fit, by what is free on a `torch.device`.

    Args:
        what: Opens the message: what was under way.
        device: Where.
        needed: Weights and cache.
        facts: The rest of what `unillm.memory.out_of_memory` takes.
    """
    return memory.out_of_memory(
        what, needed=needed, free=free_bytes(device), device=device, **facts
    )


def free_bytes(device: Any) -> int:
    """Return how much memory of a `torch.device` nobody uses."""
    if device.type == "cuda":
        import torch

        return torch.cuda.mem_get_info(device)[0]
    return int(min(_free_host_bytes(), _free_group_bytes()))


def _free_host_bytes() -> int:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        name, _, amount = line.partition(":")
        if name == "MemAvailable":
            return int(amount.split()[0]) * 1024
    raise AssertionError("/proc/meminfo has no MemAvailable")


def _free_group_bytes(root: Path = Path("/sys/fs/cgroup")) -> float:
    """Return what the container's limit leaves; infinity where there is none."""
    try:
        limit = (root / "memory.max").read_text(encoding="ascii").strip()
        used = (root / "memory.current").read_text(encoding="ascii").strip()
    except OSError:
        return math.inf
    return math.inf if limit == "max" else int(limit) - int(used)
