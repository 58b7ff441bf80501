# SPDX-License-Identifier: Apache-2.0

"""Processor time, memory and energy of a side, as Linux and the device report them.

A side leads a session, and every process that its engine starts belongs to it.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROC = Path("/proc")
RAPL = Path("/sys/class/powercap")
STOP, CONTINUE = signal.SIGSTOP, signal.SIGCONT


def session(leader: int) -> dict[int, float]:
    """Return the processes of a session, each with its processor seconds.

    Sessions that its processes began belong to it: an engine of another interpreter
    leads one.
    """
    seconds, parents, sessions = {}, {}, {}
    for path in PROC.glob("[0-9]*/stat"):
        try:
            fields = path.read_text("ascii", "replace").rpartition(")")[2].split()
        except OSError:
            continue  # the process has ended
        pid = int(path.parent.name)
        parents[pid], sessions[pid] = int(fields[1]), int(fields[3])
        ticks = sum(map(int, fields[11:15]))  # its own, and of ended children
        seconds[pid] = ticks / os.sysconf("SC_CLK_TCK")
    known, more = set[int](), {leader}
    while more:
        known |= more
        members = {pid for pid in seconds if sessions[pid] in known}
        more = {sessions[pid] for pid in seconds if parents[pid] in members} - known
    return {pid: seconds[pid] for pid in members}


def cpu_seconds(leader: int) -> float:
    """Return the processor seconds of a session."""
    return sum(session(leader).values())


def peak_bytes(leader: int) -> int:
    """Return the peak memory of a session: the sum of its processes' own peaks."""
    return sum(_status(pid, "VmHWM") for pid in session(leader))


def _status(pid: int, key: str) -> int:
    with contextlib.suppress(OSError):
        text = (PROC / str(pid) / "status").read_text("ascii", "replace")
        if found := re.search(rf"^{key}:\s+(\d+) kB", text, re.MULTILINE):
            return int(found[1]) * 1024
    return 0


def signal_session(leader: int, number: signal.Signals) -> None:
    """Send a signal to all processes of a session."""
    for pid in session(leader):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


@contextlib.contextmanager
def awake(leader: int) -> Iterator[None]:
    """Let a session run inside the block, and stop it after."""
    signal_session(leader, CONTINUE)
    try:
        yield
    finally:
        signal_session(leader, STOP)


# ------------------------------------------------------------------------- the device


class Meters:
    """Meters of the devices: NVIDIA's by NVML, processors by RAPL, where they exist."""

    def __init__(self) -> None:
        self._nvml, self._handles = _nvml()
        self._zones = sorted(RAPL.glob("intel-rapl:?/energy_uj"))

    def energy_j(self) -> float | None:
        """Return the energy that all devices used since some past moment."""
        if self._nvml is not None:
            with contextlib.suppress(Exception):  # an old card has no such meter
                used = map(
                    self._nvml.nvmlDeviceGetTotalEnergyConsumption, self._handles
                )
                return float(sum(used)) / 1e3
        with contextlib.suppress(OSError):
            if self._zones:
                return sum(int(zone.read_text()) for zone in self._zones) / 1e6
        return None

    def clock_mhz(self) -> float | None:
        """Return the clock of the slowest GPU; `None` without NVML."""
        if self._nvml is None:
            return None
        kind = self._nvml.NVML_CLOCK_SM
        return float(
            min(self._nvml.nvmlDeviceGetClockInfo(each, kind) for each in self._handles)
        )

    def memory_bytes(self, leader: int) -> int | None:
        """Return the device memory that a session holds; `None` without NVML."""
        if self._nvml is None:
            return None
        pids = session(leader)
        return sum(
            process.usedGpuMemory or 0
            for each in self._handles
            for process in self._nvml.nvmlDeviceGetComputeRunningProcesses(each)
            if process.pid in pids
        )


def energy_between(before: float | None, after: float | None) -> float | None:
    """Return the energy of a run; `None` where a meter is missing or began anew.

    Those of RAPL begin anew at ``max_energy_range_uj``.
    """
    if before is None or after is None or after < before:
        return None
    return after - before


def _nvml() -> tuple[Any, list[Any]]:
    try:
        import pynvml

        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(n) for n in range(count)]
    except Exception:  # noqa: BLE001 - no library, no driver, no device
        return None, []
    return (pynvml, handles) if handles else (None, [])


# ------------------------------------------------------------------------- the clocks


def clock_drift(begun: tuple[float, float]) -> float:
    """Return by which share the two clocks of the machine disagree since *begun*."""
    monotonic, real = (now - then for now, then in zip(clocks(), begun, strict=True))
    return abs(monotonic - real) / max(monotonic, 1e-9)


def clocks() -> tuple[float, float]:
    """Return the monotonic clock and the clock of the day, in seconds."""
    return time.monotonic(), time.time()
