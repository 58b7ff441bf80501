# SPDX-License-Identifier: Apache-2.0

"""The device's limits, measured: ``python -m unillm.bench.device``.

Standard input has a line of `Question`, standard output one ``device``. Bandwidth is
that of reading, at the size of the model's weights: a model that fits a cache is bound
by the cache. A limit must not be too low, so the fastest of many repetitions counts.
"""

from __future__ import annotations

import functools
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from ..comparison.worker import CONVERTER, take_stdout
from ..openmp import share_cores

SPAN_S = 0.25
"""Seconds of the repetitions of one operation."""

LARGEST = {"cpu": 2**28, "cuda": 2**30}
"""Bytes of the largest buffer, by kind of device."""

SMALLEST = 2**20

DATASHEETS = {
    "H100 PCIe": "NVIDIA H100 datasheet, H100 PCIe: 2 TB/s",
    "H100 80GB HBM3": "NVIDIA H100 datasheet, H100 SXM: 3.35 TB/s",
    "H100 NVL": "NVIDIA H100 datasheet, H100 NVL: 3.9 TB/s",
}
"""Bandwidth with its source, by a part of the device's name. It stands beside the
measured one and is never a limit."""


@attrs.frozen(kw_only=True)
class Question:
    """A request for a measurement."""

    weight_bytes: int
    """Bytes that a decode step reads."""
    device: str = "auto"
    """"cpu", "cuda", or "auto" for a GPU if there is one."""


@attrs.frozen(kw_only=True)
class Device:
    """A device and its measured limits."""

    kind: str
    name: str
    cores: int
    bandwidth: float
    """Bytes a second, reading as many as the weights have."""
    memory_bandwidth: float
    """Bytes a second, reading a buffer that no cache holds."""
    flops: float
    """Floating-point operations a second, of the fastest type."""
    flops_by_type: Mapping[str, float]
    measured_bytes: int
    library: str
    """The package that measured."""
    datasheet: str = ""
    """Bandwidth by the maker, with its source."""

    def at_least(self, other: Device) -> Device:
        """Return the higher limits of two measurements of the same device."""
        return attrs.evolve(
            self,
            bandwidth=max(self.bandwidth, other.bandwidth),
            memory_bandwidth=max(self.memory_bandwidth, other.memory_bandwidth),
            flops=max(self.flops, other.flops),
        )


def main() -> None:
    """Answer one question."""
    output = take_stdout()
    question = CONVERTER.loads(sys.stdin.readline(), Question)
    share_cores()
    try:
        import torch
    except ImportError:
        found = measure_numpy(question)
    else:
        found = measure_torch(question, torch)
    output.write(CONVERTER.dumps({"device": found}) + "\n")
    output.flush()


def measure_torch(question: Question, torch: Any) -> Device:
    """Measure with torch, on a GPU or on all cores."""
    kind = question.device
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    wait = torch.cuda.synchronize if kind == "cuda" else _nothing
    own, largest = _sizes(question, kind)

    def bandwidth(size: int) -> float:
        rows = max(1, size // 4 // 1024)
        matrix = torch.ones(rows, 1024, device=kind)
        target, vector = torch.empty_like(matrix), torch.ones(1024, device=kind)
        count: int = matrix.numel() * 4
        return max(
            2 * count / _fastest(lambda: target.copy_(matrix), wait),
            count / _fastest(matrix.sum, wait),
            count / _fastest(lambda: matrix @ vector, wait),
        )

    width = 8192 if kind == "cuda" else 1024
    types = ("float32", "bfloat16") if kind == "cpu" else ("bfloat16", "float16")
    flops = {}
    for name in types:
        one = torch.ones(width, width, device=kind, dtype=getattr(torch, name))
        flops[name] = 2 * width**3 / _fastest(functools.partial(one.mm, one), wait)
    name = torch.cuda.get_device_name(0) if kind == "cuda" else _processor()
    return Device(
        kind=kind,
        name=name,
        cores=os.cpu_count() or 1,
        bandwidth=bandwidth(own),
        memory_bandwidth=bandwidth(largest),
        flops=max(flops.values()),
        flops_by_type=flops,
        measured_bytes=own,
        library=f"torch {torch.__version__}",
        datasheet=next((t for part, t in DATASHEETS.items() if part in name), ""),
    )


def measure_numpy(question: Question) -> Device:
    """Measure a processor with numpy."""
    import numpy as np

    own, largest = _sizes(question, "cpu")

    def bandwidth(size: int) -> float:
        matrix = np.ones((max(1, size // 4 // 1024), 1024), np.float32)
        target, vector = np.empty_like(matrix), np.ones(1024, np.float32)
        return max(
            2 * matrix.nbytes / _fastest(lambda: np.copyto(target, matrix), _nothing),
            matrix.nbytes / _fastest(lambda: matrix @ vector, _nothing),
        )

    one = np.ones((1024, 1024), np.float32)
    flops = 2 * 1024**3 / _fastest(lambda: one @ one, _nothing)
    return Device(
        kind="cpu",
        name=_processor(),
        cores=os.cpu_count() or 1,
        bandwidth=bandwidth(own),
        memory_bandwidth=bandwidth(largest),
        flops=flops,
        flops_by_type={"float32": flops},
        measured_bytes=own,
        library=f"numpy {np.__version__}",
    )


def _sizes(question: Question, kind: str) -> tuple[int, int]:
    largest = LARGEST[kind]
    return min(max(question.weight_bytes, SMALLEST), largest), largest


def _fastest(work: Callable[[], Any], wait: Callable[[], Any]) -> float:
    """Return the seconds of the fastest repetition."""
    fastest, end = float("inf"), time.perf_counter() + SPAN_S
    while fastest == float("inf") or time.perf_counter() < end:
        begun = time.perf_counter()
        work()
        wait()
        fastest = min(fastest, time.perf_counter() - begun)
    return fastest


def _nothing() -> None:
    """Wait for nothing: a processor has computed when the call returns."""


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123
            names = (line for line in lines if line.startswith("model name"))
            return next(names).partition(":")[2].strip()
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
