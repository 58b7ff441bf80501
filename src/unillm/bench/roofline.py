# SPDX-License-Identifier: Apache-2.0

"""Rooflines: times that no engine can beat, by bytes and operations. Arithmetic only.

A decode step reads the weights once and the cache of every row; a token costs two
operations for each parameter. A measured time below such a floor has a wrong count or a
wrong clock.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from .. import StepReport
from .device import Device
from .workloads import OPEN, Ask, Case


@attrs.frozen(kw_only=True)
class Cost:
    """Bytes and operations of the model in each step. All numbers are lower bounds."""

    weight_bytes: int
    """Read by each step, whatever the rows; routed experts left out."""
    expert_bytes: int = 0
    """All routed experts."""
    num_experts: int = 0
    experts_per_token: int = 0
    kv_bytes_per_token: int = 0
    flops_per_token: int = 0
    head_flops: int = 0
    """Operations of the output embedding among them. Only the last token of a prompt
    needs these."""

    @property
    def step_bytes(self) -> float:
        """Weights that a decode step reads."""
        if not self.num_experts:
            return float(self.weight_bytes)
        # All rows may choose the same experts: no more than one token's are certain.
        share = self.experts_per_token / self.num_experts
        return self.weight_bytes + self.expert_bytes * share

    def prompt_flops(self, num_tokens: int) -> int:
        """Return the operations of a prompt."""
        return num_tokens * (self.flops_per_token - self.head_flops) + self.head_flops


@attrs.frozen(kw_only=True)
class Floor:
    """Lower bounds of the times of a run, in seconds."""

    run_s: float
    first_token_s: float
    """Bound of the request whose prompt is shortest."""
    step_s: float
    """Bound of a decode step with one row, and with nothing in its cache."""


FLOATS = frozenset({"F64", "F32", "BF16", "F16"})
"""Types of weights whose products are no faster than the measured ones."""


def cost_of(step: StepReport, dtypes: Iterable[str]) -> Cost:
    """Return the cost of a model; without operations where a device may do them faster.

    Args:
        step: The report on a decode step.
        dtypes: Types of the stored weights, by the format's names.
    """
    cost = Cost(**attrs.asdict(step))
    if FLOATS.issuperset(dtypes):
        return cost
    return attrs.evolve(cost, flops_per_token=0, head_flops=0)


PARALLEL = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")
"""Options of `Generator` that make several devices work together."""


def num_devices(options: Mapping[str, Any]) -> int:
    """Return the devices of a side by its options."""
    return math.prod(int(options.get(name, 1)) for name in PARALLEL)


def floor_of(
    case: Case,
    asks: Sequence[Ask],
    cost: Cost,
    device: Device,
    *,
    devices: int = 1,
    in_cache: Sequence[int] = (),
) -> Floor:
    """Return the floor of one round.

    Args:
        case: The kind of load.
        asks: Requests of the round; a prompt of unknown length counts one token.
        cost: The model's.
        device: Measured limits.
        devices: Devices that work together, with the sum of their limits.
        in_cache: Tokens of each prompt that a cache had, where prompts may repeat. An
            engine computes none of them, and may read them once for several rows.
    """
    bandwidth, flops = device.bandwidth * devices, device.flops * devices
    known = in_cache or [0] * len(asks)
    prompts = [
        max(1, (ask.num_prompt_tokens or 1) - of_cache)
        for ask, of_cache in zip(asks, known, strict=True)
    ]
    rows = len(asks) if case.kind == OPEN else min(len(asks), int(case.size))
    new = sum(ask.max_tokens for ask in asks)
    # The first token of each request comes from prefill.
    row_steps = new - len(asks)
    steps = max(row_steps / rows, max(ask.max_tokens for ask in asks) - 1)
    read = steps * cost.step_bytes
    for prompt, ask in zip(prompts, asks, strict=True):
        steps_of = ask.max_tokens - 1
        cached = steps_of * prompt + steps_of * ask.max_tokens / 2
        read += cached * cost.kv_bytes_per_token
    weights = cost.step_bytes
    computed = sum(map(cost.prompt_flops, prompts))
    prefill = max(weights / bandwidth, computed / flops)
    computed += row_steps * cost.flops_per_token
    shortest = cost.prompt_flops(min(prompts)) / flops
    return Floor(
        run_s=max(prefill + read / bandwidth, computed / flops),
        first_token_s=max(weights / bandwidth, shortest),
        step_s=weights / bandwidth,
    )
