# SPDX-License-Identifier: Apache-2.0

"""The limits that fit a memory, and the error where they do not.

`unillm plan` and `EngineOutOfMemoryError` state the numbers of this module, on every
backend.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import attrs

from ..errors import EngineOutOfMemoryError
from .memory import GIB, Limits, MemoryNeeds

HEADROOM = 0.95
"""Part of the memory that a plan may use: the estimate of activations is within a
quarter, and an allocator does not use every byte."""

SMALLEST = Limits(max_num_seqs=1, max_model_len=2, max_num_batched_tokens=1)
"""The smallest limits of a request: one token of a prompt and a new one."""


def largest_limits(
    needs: MemoryNeeds,
    limits: Limits,
    memory_bytes: int,
    smallest: Limits = SMALLEST,
) -> dict[str, int]:
    """Return the largest value of each limit that fits while the others stay.

    Args:
        needs: Memory cost of the model.
        limits: Wanted limits, which no returned value exceeds.
        memory_bytes: Memory for the engine, weights included.
        smallest: The smallest values that the engine can have.

    Returns:
        Values by the names of `Limits`, without those of which no value fits.
    """
    least = attrs.asdict(smallest)

    def fits(value: int, *, name: str) -> bool:
        changed = attrs.evolve(limits, **{name: value})
        return needs.estimate(changed).total_bytes <= memory_bytes

    found = {
        name: _search(partial(fits, name=name), wanted)
        for name, wanted in attrs.asdict(limits).items()
    }
    return {name: value for name, value in found.items() if value >= least[name]}


def largest_together(
    needs: MemoryNeeds, limits: Limits, memory_bytes: int
) -> Limits | None:
    """Return the limits, lowered by one common share, that fit; `None` if none do."""
    least = attrs.asdict(SMALLEST)

    def lowered(thousandths: int) -> Limits:
        return Limits(
            **{
                name: max(least[name], wanted * thousandths // 1000)
                for name, wanted in attrs.asdict(limits).items()
            }
        )

    share = _search(
        lambda each: needs.estimate(lowered(each)).total_bytes <= memory_bytes, 1000
    )
    return lowered(share) if share else None


def _search(fits: Callable[[int], bool], wanted: int) -> int:
    """Return the largest number up to *wanted* that fits; 0 if none does."""
    low, high = 0, wanted
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low


def out_of_memory(
    what: str,
    *,
    needs: MemoryNeeds,
    limits: Limits,
    free: int,
    device: object,
    loaded_bytes: int = 0,
    asked: int = 0,
) -> EngineOutOfMemoryError:
    """Return the error of a failed allocation, with all numbers and limits that fit.

    Args:
        what: Opens the message: the allocation that failed.
        needs: Memory cost of the model.
        limits: Limits of the engine.
        free: Free bytes of the device.
        device: The device, for the message.
        loaded_bytes: Memory that the engine holds already.
        asked: Size of the allocation; 0 where nothing was allocated yet.
    """
    needed = needs.estimate(limits)
    memory_bytes = int((free + loaded_bytes) * HEADROOM)
    if asked:
        # The allocation came on top of the memory in use, whatever the estimate.
        memory_bytes = min(memory_bytes, needed.total_bytes - asked)
    fitting = [
        f"{name}={value}"
        for name, value in largest_limits(needs, limits, memory_bytes).items()
    ]
    advice = (
        f"By this estimate, {' or '.join(fitting)} fits, each with the other limits "
        "unchanged."
        if fitting
        else "Lowering one limit is not enough: lower several, or use a smaller dtype "
        "or a smaller model."
    )
    request = ""
    if asked:
        request = f" The failed allocation asked for {asked / GIB:.2f} GiB more."
    given = ", ".join(f"{name}={value}" for name, value in attrs.asdict(limits).items())
    return EngineOutOfMemoryError(
        f"{what}: {needed}, for {given}; {free / GIB:.2f} GiB are free on {device}"
        f"{' beside the loaded model' if loaded_bytes else ''}.{request} {advice}",
    )
