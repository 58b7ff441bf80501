# SPDX-License-Identifier: Apache-2.0

"""``vllm.v1.metrics.reader``: what `LLM.get_metrics` returns."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Metric:
    """A number of the engine with its name and labels."""

    name: str
    labels: dict[str, str]


@dataclass
class Counter(Metric):
    """A count that only grows."""

    value: int


@dataclass
class Gauge(Metric):
    """A number that grows and shrinks."""

    value: float


@dataclass
class Vector(Metric):
    """Several counts in order. `LLM.get_metrics` returns none."""

    values: list[int]


@dataclass
class Histogram(Metric):
    """Counts by upper limit. `LLM.get_metrics` returns none."""

    count: int
    sum: float
    buckets: dict[str, int]
