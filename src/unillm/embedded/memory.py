# SPDX-License-Identifier: Apache-2.0

"""How many slots of which length fit a device, and how torch says that memory ran out.

`unillm.model.memory` estimates what a model needs; this module asks torch how much of a
GPU is free.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import attrs

from ..errors import ConfigError, EngineOutOfMemoryError
from ..model import memory
from ..model.memory import GIB, Limits, MemoryNeeds
from ..model.sizes import ALIGNMENT

DEFAULT_SLOTS = {"cpu": 8, "cuda": 64}
"""What a decode step still serves at nearly the price of one row."""

SHORTEST_DEFAULT = 4096
"""Positions that a row has even if fewer slots then fit, unless the model has fewer."""


MEMORY_SHARE = {"cpu": 0.5, "cuda": 0.9}
"""Part of the memory that is free after loading which an engine takes by default. The
rest is for everybody else, of whom a CPU has more."""


# --------------------------------------------------------------------------- what fits


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
    """Fill in what the user left open, so that cache and activations fit.

    What is given is kept, whatever it takes. A length that is not given is the model's,
    or as many positions as fit with the default number of slots, but not less than
    `SHORTEST_DEFAULT`; a number of slots that is not given is the default, or as many
    as fit with that length, but at least one.

    Args:
        needs: Of the model.
        positions: Positions that the model knows.
        max_model_len: What the user asked, or `None`.
        max_num_seqs: What the user asked, or `None`.
        max_num_batched_tokens: Of one prefill.
        default_slots: Rows, if they fit.
        memory_bytes: What there is for the engine, its weights among it.
    """
    limits = Limits(
        max_num_seqs=max_num_seqs or default_slots,
        max_model_len=max_model_len or positions,
        max_num_batched_tokens=max_num_batched_tokens,
    )
    if max_model_len is None and needs.kv_bytes_per_token:
        fits = needs.largest(limits, memory_bytes)["max_model_len"]
        shortest = min(positions, SHORTEST_DEFAULT)
        if fits < positions:
            fits = max(fits // ALIGNMENT * ALIGNMENT, shortest)
        limits = attrs.evolve(limits, max_model_len=fits)
    if max_num_seqs is None:
        fits = needs.largest(limits, memory_bytes)["max_num_seqs"]
        limits = attrs.evolve(limits, max_num_seqs=max(1, fits))
    return limits


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


def out_of_memory(what: str, *, device: Any, **facts: Any) -> EngineOutOfMemoryError:
    """Make the error of whatever did not fit, by what is free on a `torch.device`.

    Args:
        what: Opens the message: what was under way.
        device: Where.
        facts: The rest of what `unillm.model.memory.out_of_memory` takes.
    """
    return memory.out_of_memory(what, free=free_bytes(device), device=device, **facts)


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
