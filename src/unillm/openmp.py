# SPDX-License-Identifier: Apache-2.0

"""Settings of OpenMP, with which engines compute on a CPU, for cores that others use.

Threads of a team wait for each other at the end of each operation. GNU's OpenMP, which
torch brings on Linux, waits in a loop for up to some milliseconds. Where another
program has one of the cores, the team's other threads then spend nearly all their time
in that loop. They sleep after some tenths of a millisecond instead; that is long enough
for what an engine does between the steps of a small model on idle cores, and
`runtime.cores` shortens it where cores are not idle.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

SPINS = "20000"
"""Turns of the loop. A model of 10M parameters gave 1.06 times the tokens a second of
5000 turns, and no more with 300000."""

_POLICIES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def share_cores() -> None:
    """Set the variables that OpenMP reads when it is loaded.

    They concern engines of this process, if it has not loaded torch yet, and of its
    children. Variables that are set are left as they are.
    """
    if not any(name in os.environ for name in _POLICIES):
        os.environ["GOMP_SPINCOUNT"] = SPINS
    quota = cpu_quota()
    if quota is not None and quota < (os.cpu_count() or 1):
        os.environ.setdefault("OMP_NUM_THREADS", str(math.ceil(quota)))


def chooses_spins() -> bool:
    """Whether `share_cores` has chosen how long threads wait, and not the user."""
    return [os.environ.get(name) for name in _POLICIES] == [SPINS, None]


def cpu_quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Return the processor time that this container may use, in cores.

    Args:
        root: Where the control groups are mounted. In a container, the one at the root
            is the container's.

    Returns:
        `None` without a limit.
    """
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            words = " ".join((root / name).read_text() for name in names).split()
            quota, period = map(int, words)
        except (OSError, ValueError):  # not there, or "max"
            continue
        if quota > 0 and period > 0:
            return quota / period
    return None


def libraries() -> list[str]:
    """Return the paths of GNU's OpenMP libraries that this process has loaded."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:  # not Linux
        return []
    paths = {line.split(maxsplit=5)[-1] for line in lines if "libgomp" in line}
    return sorted(paths)
