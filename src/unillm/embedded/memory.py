# SPDX-License-Identifier: Apache-2.0

"""How many slots of which length fit a device, and torch's out-of-memory errors.

`unillm.model.memory` estimates the needs of a model; this module knows how much memory
is free.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import attrs

from ..errors import ConfigError, EngineOutOfMemoryError
from ..model import fitting
from ..model.memory import GIB, Limits, MemoryNeeds
from ..model.sizes import ALIGNMENT

DEFAULT_SLOTS = {"cpu": 8, "cuda": 64}
"""Rows that a decode step computes for nearly the price of one."""

SHORTEST_DEFAULT = 4096
"""Positions that a row has even if fewer slots then fit, unless the model has fewer."""

MEMORY_SHARE = {"cpu": 0.5, "cuda": 0.9}
"""Part of the memory free after loading that an engine takes by default. Other programs
take the rest, and share a CPU's memory more often than a GPU's."""


# ---------------------------------------------------------------------- limits that fit


def check_model_len(max_model_len: int | None, *, positions: int) -> None:
    """Raise `ConfigError` if a row would be longer than the model has positions."""
    if max_model_len is not None and max_model_len > positions:
        raise ConfigError(
            f"max_model_len={max_model_len} is more than the {positions} positions "
            f"that the model was made for. Pass max_model_len={positions} or less."
        )


def plan_limits(
    needs: MemoryNeeds,
    *,
    positions: int,
    max_model_len: int | None,
    max_num_seqs: int | None,
    max_num_batched_tokens: int,
    default_slots: int,
    memory_bytes: int,
) -> Limits:
    """Choose the limits that the user left open, so that cache and activations fit.

    Given limits are kept, whatever they take. A length that is not given is the
    model's, or as many positions as fit with the default number of slots, but at least
    `SHORTEST_DEFAULT`. A number of slots that is not given is the default, or as many
    as fit with that length, but at least one.

    Args:
        needs: Memory that the model takes, by unit.
        positions: Positions that the model knows.
        max_model_len: The user's length, or `None`.
        max_num_seqs: The user's number of slots, or `None`.
        max_num_batched_tokens: Prompt tokens of one prefill.
        default_slots: Number of slots, if they fit.
        memory_bytes: Memory for the engine, weights included.
    """
    limits = Limits(
        max_num_seqs=max_num_seqs or default_slots,
        max_model_len=max_model_len or positions,
        max_num_batched_tokens=max_num_batched_tokens,
    )
    if max_model_len is None and needs.kv_bytes_per_token:
        fits = fitting.largest_limits(needs, limits, memory_bytes).get(
            "max_model_len", 0
        )
        shortest = min(positions, SHORTEST_DEFAULT)
        if fits < positions:
            fits = max(fits // ALIGNMENT * ALIGNMENT, shortest)
        limits = attrs.evolve(limits, max_model_len=fits)
    if max_num_seqs is None:
        fits = fitting.largest_limits(needs, limits, memory_bytes).get(
            "max_num_seqs", 1
        )
        limits = attrs.evolve(limits, max_num_seqs=fits)
    return limits


# ------------------------------------------------------------------ limits that do not

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
    """Return the bytes that a failed allocation asked for; 0 if not in the error."""
    found = _ASKED.search(str(error))
    return int(float(found["amount"]) * _UNITS[found["unit"]]) if found else 0


def out_of_memory(what: str, *, device: Any, **facts: Any) -> EngineOutOfMemoryError:
    """Return the error of an allocation that did not fit on a `torch.device`.

    Args:
        what: Opens the message: what was under way.
        device: Its free memory is measured now.
        facts: Other arguments of `unillm.model.fitting.out_of_memory`.
    """
    return fitting.out_of_memory(what, free=free_bytes(device), device=device, **facts)


def free_bytes(device: Any) -> int:
    """Return the free memory of a `torch.device`."""
    if device.type == "cuda":
        import torch

        return torch.cuda.mem_get_info(device)[0]
    return int(min(_free_host_bytes(), _free_group_bytes()))


def _free_host_bytes() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:  # not Linux
        import psutil

        return int(psutil.virtual_memory().available)
    for line in lines:
        name, _, amount = line.partition(":")
        if name == "MemAvailable":
            return int(amount.split()[0]) * 1024
    raise AssertionError("/proc/meminfo has no MemAvailable")


def _free_group_bytes(root: Path = Path("/sys/fs/cgroup")) -> float:
    """Return the bytes below the container's limit; infinity where there is none."""
    try:
        limit = (root / "memory.max").read_text(encoding="ascii").strip()
        used = (root / "memory.current").read_text(encoding="ascii").strip()
    except OSError:
        return math.inf
    return math.inf if limit == "max" else int(limit) - int(used)
