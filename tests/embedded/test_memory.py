# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import re

import attrs
import pytest
import torch
from embedded.tiny_models import greedy_request, make_model, slots_for
from transformers import LlamaForCausalLM

from unillm import Generator
from unillm.embedded.engine import TransformersSlotEngine
from unillm.embedded.families import RECURRENT
from unillm.embedded.loading import load_engine
from unillm.embedded.memory import (
    _free_group_bytes,
    asked_bytes,
    check_model_len,
    free_bytes,
    is_out_of_memory,
    plan_limits,
)
from unillm.errors import ConfigError, EngineOutOfMemoryError
from unillm.model.memory import GIB, Limits, MemoryNeeds, memory_needs
from unillm.model.sizes import KvShape, StateShape
from unillm.scheduling.slots import SlotScheduler


@pytest.mark.parametrize(("dtype", "item_bytes"), [("auto", 4), ("bfloat16", 2)])
def test_an_estimate_is_what_the_engine_takes(reference, family, dtype, item_bytes):
    slots = slots_for(family, 3)
    limits = Limits(max_num_seqs=slots, max_model_len=100, max_num_batched_tokens=2048)
    needs = memory_needs(reference.path(family), dtype=dtype)
    estimated = needs.estimate(limits)

    model = make_model(family)
    engine = TransformersSlotEngine(model, num_slots=slots, max_model_len=100)
    kv_bytes = sum(t.numel() * item_bytes for t in engine._cache.tensors)
    state_bytes = StateShape.of(model.config).bytes_per_seq(item_bytes) * slots
    cache_bytes = kv_bytes + state_bytes
    stored = {t.data_ptr(): t.numel() for t in model.state_dict().values()}
    weight_bytes = sum(stored.values()) * item_bytes
    assert estimated.cache_bytes == cache_bytes
    assert estimated.kv_bytes_per_token == kv_bytes // (slots * 128)
    assert estimated.weight_bytes == weight_bytes
    assert estimated.total_bytes == sum(
        (cache_bytes, weight_bytes, estimated.activation_bytes)
    )


@pytest.mark.parametrize("variant", sorted(RECURRENT))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_states_are_estimated_as_the_engine_takes_them(variant, dtype):
    model = make_model(variant).to(dtype)

    cache = TransformersSlotEngine(model, num_slots=3, max_model_len=100)._cache

    kept = sum(tensor.nbytes for tensor in cache.states)
    assert StateShape.of(model.config).bytes_per_seq(dtype.itemsize) * 3 == kept
    stored = sum(tensor.nbytes for tensor in cache.tensors)
    per_token = KvShape.of(model.config).bytes_per_token(dtype.itemsize)
    assert per_token * 3 * 128 == stored


def test_known_shape_of_llama_3_8b():
    """32 layers, 8 key-value heads of 128: 128 KiB a token in half precision."""
    shape = KvShape(layers=32, kv_heads=8, head_dim=128, value_dim=128)

    assert shape.bytes_per_token(2) == 128 * 1024


NEEDS = MemoryNeeds(
    weight_bytes=0,
    kv_bytes_per_token=10,
    activation_bytes_per_token=0,
    logit_bytes_per_seq=0,
)


@pytest.mark.parametrize(
    ("asked", "tokens_that_fit", "expected"),
    [
        ((None, None), 8 * 8192, (8, 8192)),
        ((None, None), 10**9, (8, 8192)),
        ((None, None), 8 * 5000, (8, 4992)),
        ((None, None), 3 * 4096, (3, 4096)),
        ((None, None), 10, (1, 4096)),
        ((100, None), 10**9, (8, 100)),
        ((100, None), 3 * 128, (3, 100)),
        ((None, 2), 2 * 6400, (2, 6400)),
        ((None, 500), 10, (500, 4096)),
        ((8192, 500), 10, (500, 8192)),
    ],
    ids=[
        "just fits",
        "ample",
        "shorter rows first",
        "then fewer slots",
        "one slot at least",
        "length given",
        "length given, fewer slots",
        "slots given, shorter rows",
        "slots given are kept",
        "all given is kept",
    ],
)
def test_what_is_left_open_is_made_to_fit(asked, tokens_that_fit, expected):
    max_model_len, max_num_seqs = asked

    plan = plan_limits(
        NEEDS,
        positions=8192,
        max_model_len=max_model_len,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=2048,
        default_slots=8,
        memory_bytes=tokens_that_fit * 10,
    )

    assert (plan.max_num_seqs, plan.max_model_len) == expected


def plan_of(needs, *, positions, memory_bytes):
    return plan_limits(
        needs,
        positions=positions,
        max_model_len=None,
        max_num_seqs=None,
        max_num_batched_tokens=2048,
        default_slots=8,
        memory_bytes=memory_bytes,
    )


def test_a_model_with_few_positions_keeps_them():
    plan = plan_of(NEEDS, positions=512, memory_bytes=10)

    assert (plan.max_num_seqs, plan.max_model_len) == (1, 512)


def test_room_is_left_for_activations_and_weights():
    needs = attrs.evolve(NEEDS, weight_bytes=1000, activation_bytes_per_token=5)
    memory_bytes = 1000 + 2048 * 5 + 8 * 6400 * 10

    plan = plan_of(needs, positions=8192, memory_bytes=memory_bytes)

    assert (plan.max_num_seqs, plan.max_model_len) == (8, 6400)


def test_states_without_a_length_bound_the_slots_alone():
    needs = attrs.evolve(NEEDS, kv_bytes_per_token=0, state_bytes_per_seq=1000)

    plan = plan_of(needs, positions=8192, memory_bytes=5000)

    assert (plan.max_num_seqs, plan.max_model_len) == (5, 8192)


def test_more_length_than_the_model_has_is_refused_with_both_numbers():
    check_model_len(None, positions=512)
    check_model_len(512, positions=512)
    with pytest.raises(ConfigError, match=r"max_model_len=513 .* 512 positions"):
        check_model_len(513, positions=512)


def test_free_memory_respects_the_containers_limit(tmp_path):
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("400\n")

    assert _free_group_bytes(tmp_path) == 600

    (tmp_path / "memory.max").write_text("max\n")
    assert _free_group_bytes(tmp_path) == float("inf")
    assert _free_group_bytes(tmp_path / "nowhere") == float("inf")


def test_some_memory_is_free():
    assert free_bytes(make_model("llama").device) > 2**20


# ------------------------------------------------------------------ what does not fit

CUDA_ERROR = torch.OutOfMemoryError(
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of"
)
CPU_ERROR = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate "
    "memory: you tried to allocate 400000000000 bytes. Error code 12"
)


@pytest.mark.parametrize(
    ("error", "asked"),
    [(CUDA_ERROR, int(2.5 * GIB)), (CPU_ERROR, 400_000_000_000), (MemoryError(), 0)],
    ids=["cuda", "cpu", "python"],
)
def test_errors_of_torch_are_known(error, asked):
    assert is_out_of_memory(error)
    assert asked_bytes(error) == asked


def test_other_errors_are_not_about_memory():
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    assert not is_out_of_memory(ValueError("can't allocate memory"))


def test_torch_on_the_cpu_says_it_as_expected():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)

    assert is_out_of_memory(caught.value)
    assert asked_bytes(caught.value) == 2**60


def fail_with(error):
    def forward(*args, **kwargs):
        raise error

    return forward


@pytest.mark.parametrize("error", [CUDA_ERROR, CPU_ERROR], ids=["cuda", "cpu"])
@pytest.mark.parametrize(
    ("in_decode", "doing"),
    [(False, "A prefill of 20 tokens"), (True, "A decode step")],
    ids=["prefill", "decode"],
)
def test_a_step_that_runs_out_of_memory_says_what_takes_it(
    monkeypatch, error, in_decode, doing
):
    engine = TransformersSlotEngine(make_model("llama"), num_slots=4, max_model_len=128)
    scheduler = SlotScheduler(engine)
    scheduler.add_request(greedy_request(0, range(20), 8))
    forward = fail_with(error)
    if in_decode:
        prefill = engine.prefill

        def prefill_then_fail(chunks):
            result = prefill(chunks)
            monkeypatch.setattr(engine._model, "forward", forward)
            return result

        monkeypatch.setattr(engine, "prefill", prefill_then_fail)
    else:
        monkeypatch.setattr(engine._model, "forward", forward)

    with pytest.raises(EngineOutOfMemoryError) as caught:
        scheduler.step()

    assert re.search(
        rf"^{doing} ran out of memory: weights .* GiB, cache .* \(512 bytes a token\), "
        r"activations .* GiB, for max_num_seqs=4, max_model_len=128, "
        r"max_num_batched_tokens=2048; .* GiB are free on cpu .* more were asked for",
        str(caught.value),
    )
    assert caught.value.__cause__ is error


def test_other_failures_of_a_step_stay_what_they_are(monkeypatch):
    engine = TransformersSlotEngine(make_model("llama"), num_slots=1, max_model_len=64)
    scheduler = SlotScheduler(engine)
    scheduler.add_request(greedy_request(0, range(20), 8))
    monkeypatch.setattr(engine._model, "forward", fail_with(RuntimeError("a bug")))

    with pytest.raises(RuntimeError, match="a bug"):
        scheduler.step()


def test_the_caller_of_a_generator_is_told_so(reference, monkeypatch):
    with Generator(
        "unillm/tiny",
        backend="transformers",
        max_num_seqs=2,
        max_model_len=128,
        backend_options={"device": "cpu"},
    ) as generator:
        monkeypatch.setattr(LlamaForCausalLM, "forward", fail_with(CUDA_ERROR))

        with pytest.raises(
            EngineOutOfMemoryError, match=r"A prefill of .* ran out of memory"
        ):
            generator.generate("Count from 3 to 9:")


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("transformers.AutoModelForCausalLM.from_pretrained", CPU_ERROR),
        ("transformers.AutoModelForCausalLM.from_pretrained", MemoryError()),
        ("transformers.PreTrainedModel.to", CUDA_ERROR),
    ],
    ids=["loading", "python", "moving"],
)
def test_loading_that_runs_out_of_memory_says_what_takes_it(
    reference, monkeypatch, where, error
):
    monkeypatch.setattr(where, fail_with(error))

    with pytest.raises(EngineOutOfMemoryError) as caught:
        load_engine(
            reference.path("llama"), device="cpu", max_num_seqs=4, max_model_len=128
        )

    assert re.search(
        r"weights of .*llama do not fit: weights .* GiB, cache .* \(512 bytes a token\), "
        r"activations .* for max_num_seqs=4, max_model_len=128, "
        r"max_num_batched_tokens=2048; .* GiB are free on cpu\.",
        str(caught.value),
    )
