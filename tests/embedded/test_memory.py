# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import re

import attrs
import pytest
import torch
from embedded.serving import greedy_request
from embedded.tiny_models import make_model, slots_for
from transformers import LlamaForCausalLM

from unillm import Generator
from unillm.embedded.engine import TransformersSlotEngine
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
from unillm.model.sizes import KvShape
from unillm.scheduling.slots import SlotScheduler


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_an_estimate_is_what_the_engine_takes(reference, family, dtype):
    """Cache, states and weights, from the files alone and for their dtype."""
    slots = slots_for(family, 3)
    limits = Limits(max_num_seqs=slots, max_model_len=100, max_num_batched_tokens=2048)
    estimated = memory_needs(reference.path(family), dtype=dtype).estimate(limits)
    model = make_model(family)
    if dtype != "auto":
        model = model.to(getattr(torch, dtype))

    cache = TransformersSlotEngine(model, num_slots=slots, max_model_len=100)._cache

    kv_bytes = sum(tensor.nbytes for tensor in cache.tensors)
    state_bytes = sum(tensor.nbytes for tensor in cache.states)
    stored = {t.data_ptr(): t.nbytes for t in model.state_dict().values()}
    weight_bytes = sum(stored.values())
    assert estimated.kv_bytes_per_token == kv_bytes // (slots * 128)
    assert estimated.cache_bytes == kv_bytes + state_bytes
    assert estimated.weight_bytes == weight_bytes
    assert estimated.total_bytes == sum(
        (kv_bytes, state_bytes, weight_bytes, estimated.activation_bytes)
    )


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
def test_limits_left_open_are_chosen_to_fit(asked, tokens_that_fit, expected):
    assert chosen(NEEDS, tokens_that_fit * 10, asked=asked) == expected


def chosen(needs, memory_bytes, *, positions=8192, asked=(None, None)):
    """Return the chosen slots and length."""
    max_model_len, max_num_seqs = asked
    limits = plan_limits(
        needs,
        positions=positions,
        max_model_len=max_model_len,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=2048,
        default_slots=8,
        memory_bytes=memory_bytes,
    )
    return limits.max_num_seqs, limits.max_model_len


def test_a_model_with_few_positions_keeps_them():
    assert chosen(NEEDS, 10, positions=512) == (1, 512)


def test_activations_and_weights_are_subtracted_first():
    needs = attrs.evolve(NEEDS, weight_bytes=1000, activation_bytes_per_token=5)

    assert chosen(needs, 1000 + 2048 * 5 + 8 * 6400 * 10) == (8, 6400)


def test_states_without_a_length_limit_the_slots_alone():
    needs = attrs.evolve(NEEDS, kv_bytes_per_token=0, state_bytes_per_seq=1000)

    assert chosen(needs, 5000) == (5, 8192)


def test_a_length_over_the_models_is_refused_with_both_numbers():
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


# --------------------------------------------------------------------- out of memory

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
def test_out_of_memory_errors_of_torch_are_recognised(error, asked):
    assert is_out_of_memory(error)
    assert asked_bytes(error) == asked


def test_other_errors_are_not_taken_for_out_of_memory():
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    assert not is_out_of_memory(ValueError("can't allocate memory"))


def test_torch_on_the_cpu_raises_a_recognised_error():
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
def test_a_step_that_runs_out_of_memory_names_all_numbers(
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
        r"max_num_batched_tokens=2048; .* GiB are free on cpu .* asked for .* GiB more",
        str(caught.value),
    )
    assert caught.value.__cause__ is error


def test_other_errors_of_a_step_are_not_changed(monkeypatch):
    engine = TransformersSlotEngine(make_model("llama"), num_slots=1, max_model_len=64)
    scheduler = SlotScheduler(engine)
    scheduler.add_request(greedy_request(0, range(20), 8))
    monkeypatch.setattr(engine._model, "forward", fail_with(RuntimeError("a bug")))

    with pytest.raises(RuntimeError, match="a bug"):
        scheduler.step()


def test_generate_raises_the_out_of_memory_error_of_a_step(monkeypatch):
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
def test_loading_that_runs_out_of_memory_names_all_numbers(
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
