# SPDX-License-Identifier: Apache-2.0

"""Bounds by bytes and operations, and the bytes of real checkpoints' headers."""

from __future__ import annotations

import attrs
import pytest

from unillm import inspect_model
from unillm.bench.device import Device
from unillm.bench.roofline import Cost, cost_of, floor_of, num_devices
from unillm.bench.workloads import Ask, Case

H100 = Device(
    kind="cuda",
    name="H100",
    cores=1,
    bandwidth=2985e9,
    memory_bandwidth=2985e9,
    flops=660e12,
    flops_by_type={},
    measured_bytes=2**30,
    library="torch",
)
LLAMA_8B = Cost(
    weight_bytes=15_010_000_000,
    kv_bytes_per_token=131_072,
    flops_per_token=2 * 7_504_924_672,
    head_flops=2 * 128_256 * 4096,
)


def article(batch):
    asks = [Ask(prompt=[5] * 128, max_tokens=100) for _ in range(batch)]
    return Case(kind="batch", size=batch, requests=batch), asks


def test_the_bound_of_an_8b_model_is_that_of_its_bytes():
    """5.03 ms a step: 199 tokens/s at batch 1, a little less with the cache."""
    case, asks = article(1)
    floor = floor_of(case, asks, LLAMA_8B, H100)

    assert floor.step_s == pytest.approx(5.03e-3, rel=1e-3)
    assert 100 / floor.run_s == pytest.approx(199, rel=0.01)


def test_a_batch_reads_the_weights_once_and_each_cache():
    case, asks = article(8)
    floor = floor_of(case, asks, LLAMA_8B, H100)

    layers = LLAMA_8B.flops_per_token - LLAMA_8B.head_flops
    prompts = 8 * (128 * layers + LLAMA_8B.head_flops) / H100.flops
    weights = 99 * LLAMA_8B.weight_bytes / H100.bandwidth
    caches = 8 * 99 * (128 + 50) * 131_072 / H100.bandwidth
    assert floor.run_s == pytest.approx(prompts + weights + caches)
    assert 800 / floor.run_s < 1591  # the weights alone


def test_a_prefix_of_a_cache_is_not_computed():
    case, asks = article(8)
    short = [Ask(prompt=[5] * 28, max_tokens=100) for _ in range(8)]

    assert floor_of(case, asks, LLAMA_8B, H100, in_cache=[100] * 8) == floor_of(
        case, short, LLAMA_8B, H100
    )


def test_two_devices_halve_the_floor():
    case, asks = article(4)
    one = floor_of(case, asks, LLAMA_8B, H100)
    two = floor_of(case, asks, LLAMA_8B, H100, devices=2)

    assert two.run_s == pytest.approx(one.run_s / 2)


def test_parallel_devices_work_together():
    assert num_devices({"backend": "vllm"}) == 1
    assert num_devices({"tensor_parallel_size": 2, "pipeline_parallel_size": 3}) == 6
    assert num_devices({"data_parallel_size": 4}) == 4


def test_operations_bound_a_long_prompt():
    asks = [Ask(prompt=[5] * 100_000, max_tokens=1)]
    floor = floor_of(Case(kind="batch", size=1, requests=1), asks, LLAMA_8B, H100)

    assert floor.first_token_s == pytest.approx(100_000 * 2 * 6.98e9 / 660e12, rel=0.01)


def test_experts_that_no_token_is_certain_to_choose_are_left_out():
    cost = attrs.evolve(
        LLAMA_8B, expert_bytes=8_000, num_experts=8, experts_per_token=2
    )

    assert cost.step_bytes == LLAMA_8B.weight_bytes + 2_000


def test_the_bundled_model_reads_its_tied_embedding_and_all_else():
    report = inspect_model("unillm/tiny", dtype="float32")

    assert report.step.weight_bytes == 4 * report.weights.num_parameters
    assert report.step.flops_per_token == 2 * report.weights.num_parameters
    assert cost_of(report.step, ["F32"]).flops_per_token == report.step.flops_per_token
    assert cost_of(report.step, ["F8_E4M3", "BF16"]).flops_per_token == 0
    assert report.step.head_flops == 2 * 512 * 128
    assert report.step.kv_bytes_per_token == report.memory.kv_bytes_per_token
