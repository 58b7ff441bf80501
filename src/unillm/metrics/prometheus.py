# SPDX-License-Identifier: Apache-2.0

"""The metrics of a server as text for Prometheus.

A name begins with ``unillm:`` and ends as vLLM's where the meaning is the same, so a
dashboard for ``vllm:`` needs one replacement. Everything is read when it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import attrs
from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from typing_extensions import override

from .histogram import Histogram
from .served import Served

_MODEL = ("model_name",)

_HISTOGRAMS = (
    ("time_to_first_token_seconds", "first_token", "From arrival to the first token."),
    (
        "inter_token_latency_seconds",
        "between_tokens",
        "Between two tokens, as streams read them.",
    ),
    (
        "request_time_per_output_token_seconds",
        "per_token",
        "Mean of one request, after its first token.",
    ),
    ("e2e_request_latency_seconds", "end_to_end", "From arrival to the last token."),
    ("request_prompt_tokens", "of_prompt", "Tokens of a prompt."),
    ("request_generation_tokens", "of_completion", "New tokens of a completion."),
    (
        "request_waited_steps",
        "waited_steps",
        "Engine steps until a slot was free, on engines whose slots unillm schedules.",
    ),
)
"""Suffix of the name, attribute of `Served`, and meaning."""

_COUNTERS = (
    ("prompt_tokens", "prompt_tokens", "Tokens of prompts."),
    ("prompt_tokens_cached", "cached_tokens", "Prompt tokens from a prefix cache."),
    ("generation_tokens", "generation_tokens", "New tokens."),
)

_SLOT_COUNTERS = (
    ("slot_steps", "slot_steps", "Slots of all steps."),
    (
        "occupied_slot_steps",
        "occupied_slot_steps",
        "Slots of all steps with a request.",
    ),
    ("slot_refills", "refills", "Requests that took a slot while others were running."),
)


@attrs.frozen(kw_only=True)
class ShadowCounts:
    """Requests that a second engine has repeated."""

    verdicts: Mapping[str, int]
    """By how the two answers relate."""
    dropped: int
    latencies: Mapping[str, Histogram]
    """By side: "first" and "shadow"."""


@attrs.frozen(kw_only=True)
class Snapshot:
    """Facts about a server at the time of a scrape."""

    model: str
    """First name of the model, the label of what concerns the engine."""
    served: Mapping[str, Served]
    """By name of the model."""
    stats: Mapping[str, Any]
    """`Generator.stats()`; empty without a generator."""
    engine_up: bool
    restarts: int
    info: Mapping[str, str]
    shadow: ShadowCounts | None = None


def render(snapshot: Snapshot, accept: str) -> tuple[bytes, str]:
    """Return the text and its content type, by the Accept header of the request."""
    registry = CollectorRegistry()
    registry.register(_Families(snapshot))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _Families(Collector):
    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    @override
    def collect(self) -> Iterator[Metric]:
        yield from self._state()
        yield from self._requests()
        if self._snapshot.stats:
            yield from self._load(self._snapshot.stats)
        if self._snapshot.shadow is not None:
            yield from self._shadow(self._snapshot.shadow)

    def _state(self) -> Iterator[Metric]:
        snapshot = self._snapshot
        info = self._gauge("info", "Versions and names.", *snapshot.info)
        info.add_metric([snapshot.model, *snapshot.info.values()], 1.0)
        yield info
        up = self._gauge("engine_up", "Whether the engine serves requests.")
        up.add_metric([snapshot.model], float(snapshot.engine_up))
        yield up
        yield self._counter("engine_restarts", "Engines made anew.", snapshot.restarts)

    def _load(self, stats: Mapping[str, Any]) -> Iterator[Metric]:
        engine = stats["engine"]
        ended = stats["finished"] + stats["failed"] + stats["cancelled"]
        running = stats["accepted"] - ended - stats["queued"]
        for name, value, about in (
            ("num_requests_running", max(running, 0), "Requests with a first token."),
            ("num_requests_waiting", stats["queued"], "Requests without a token yet."),
            ("num_tokens_waiting", stats["queued_tokens"], "Their prompt tokens."),
        ):
            gauge = self._gauge(name, about)
            gauge.add_metric([self._snapshot.model], float(value))
            yield gauge
        if "num_slots" in engine:
            slots = self._gauge("slots", "Slots of the engine.", "state")
            busy = engine["running"]
            for state, count in (("busy", busy), ("free", engine["num_slots"] - busy)):
                slots.add_metric([self._snapshot.model, state], float(count))
            yield slots
        for name, key, about in _SLOT_COUNTERS:
            if key in engine:
                yield self._counter(name, about, engine[key])

    def _shadow(self, shadow: ShadowCounts) -> Iterator[Metric]:
        model = self._snapshot.model
        yield _by_label(
            "shadow_compared",
            "Requests that both engines answered, by how the answers relate.",
            "verdict",
            [(model, shadow.verdicts)],
        )
        yield self._counter(
            "shadow_dropped", "Requests that found the shadow busy.", shadow.dropped
        )
        family = HistogramMetricFamily(
            "unillm:shadow_e2e_request_latency_seconds",
            "From arrival to the last token, of the compared requests.",
            labels=[*_MODEL, "side"],
        )
        for side, each in shadow.latencies.items():
            family.add_metric([model, side], list(each.buckets()), each.total)
        yield family

    def _gauge(self, name: str, about: str, *labels: str) -> GaugeMetricFamily:
        return GaugeMetricFamily(f"unillm:{name}", about, labels=[*_MODEL, *labels])

    def _counter(self, name: str, about: str, value: float) -> CounterMetricFamily:
        family = CounterMetricFamily(f"unillm:{name}", about, labels=_MODEL)
        family.add_metric([self._snapshot.model], value)
        return family

    def _requests(self) -> Iterator[Metric]:
        served = self._snapshot.served.items()
        for name, attribute, about in _COUNTERS:
            counter = CounterMetricFamily(f"unillm:{name}", about, labels=_MODEL)
            for model, each in served:
                counter.add_metric([model], getattr(each, attribute))
            yield counter
        yield _by_label(
            "request_success",
            "Completions that ended, by reason.",
            "finished_reason",
            ((model, each.finished) for model, each in served),
        )
        yield _by_label(
            "request_refusals",
            "Requests that were refused, by status.",
            "status",
            ((model, each.refused) for model, each in served),
        )
        for name, attribute, about in _HISTOGRAMS:
            family = HistogramMetricFamily(f"unillm:{name}", about, labels=_MODEL)
            for model, each in served:
                histogram: Histogram = getattr(each, attribute)
                buckets = list(histogram.buckets())
                family.add_metric([model], buckets, sum_value=histogram.total)
            yield family


def _by_label(
    name: str, about: str, label: str, counts: Iterable[tuple[str, Mapping[str, int]]]
) -> CounterMetricFamily:
    family = CounterMetricFamily(f"unillm:{name}", about, labels=[*_MODEL, label])
    for model, by_value in counts:
        for value, count in dict(by_value).items():
            family.add_metric([model, value], count)
    return family
