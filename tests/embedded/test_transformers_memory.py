# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import re

import pytest
import torch
from embedded.tiny_models import greedy_request, make_model
from transformers import LlamaForCausalLM, MambaConfig

from unillm import Generator
from unillm.embedded.transformers import memory
from unillm.embedded.transformers.engine import TransformersSlotEngine
from unillm.embedded.transformers.loading import load_engine
from unillm.embedded.transformers.memory import (
    _free_group_bytes,
    asked_bytes,
    check_model_len,
    free_bytes,
    is_out_of_memory,
    out_of_memory,
    plan_slots,
)
from unillm.errors import ConfigError, EngineOutOfMemoryError, UnsupportedModelError
from unillm.memory import GIB, KvShape, MemoryEstimate, estimate
from unillm.scheduling.slots import SlotScheduler


@pytest.mark.parametrize(("dtype", "item_bytes"), [("auto", 4), ("bfloat16", 2)])
def test_an_estimate_is_what_the_engine_takes(reference, family, dtype, item_bytes):
    estimated = estimate(
        reference.path(family), num_slots=3, max_model_len=100, dtype=dtype
    )

    model = make_model(family)
    engine = TransformersSlotEngine(model, num_slots=3, max_model_len=100)
    cache_bytes = sum(t.numel() * item_bytes for t in engine._cache.tensors)
    stored = {t.data_ptr(): t.numel() for t in model.state_dict().values()}
    weight_bytes = sum(stored.values()) * item_bytes
    assert estimated.cache_bytes == cache_bytes
    assert estimated.kv_bytes_per_token == cache_bytes // (3 * 128)
    assert estimated.weight_bytes == weight_bytes
    assert estimated.total_bytes == cache_bytes + weight_bytes


def test_known_shape_of_llama_3_8b():
    """32 layers, 8 key-value heads of 128: 128 KiB a token in half precision."""
    shape = KvShape(layers=32, kv_heads=8, head_dim=128)

    assert shape.bytes_per_token(2) == 128 * 1024


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

    plan = plan_slots(
        positions=8192,
        max_model_len=max_model_len,
        max_num_seqs=max_num_seqs,
        default_slots=8,
        free_bytes=tokens_that_fit * 2 * 10,  # half of it is for the cache
        bytes_per_token=10,
    )

    assert (plan.num_slots, plan.max_model_len) == expected


def test_a_model_with_few_positions_keeps_them():
    plan = plan_slots(
        positions=512,
        max_model_len=None,
        max_num_seqs=None,
        default_slots=8,
        free_bytes=10,
        bytes_per_token=10,
    )

    assert (plan.num_slots, plan.max_model_len) == (1, 512)


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


def test_a_model_without_attention_heads_has_no_shape():
    with pytest.raises(UnsupportedModelError, match="'mamba' has no key-value cache"):
        KvShape.of(MambaConfig())


# ------------------------------------------------------------------ what does not fit

NEEDED = MemoryEstimate(
    weight_bytes=10 * GIB, kv_bytes_per_token=2**17, cache_bytes=8 * 2**30
)
"""Llama 3 8B, nearly: a GiB holds 8192 tokens, so the cache is 8 slots of 8192."""


def explain(monkeypatch, *, free, **options) -> str:
    monkeypatch.setattr(memory, "free_bytes", lambda _: int(free * GIB))
    return str(
        out_of_memory(
            "It does not fit",
            needed=NEEDED,
            num_slots=8,
            max_model_len=8192,
            device="cuda",
            **options,
        )
    )


def test_what_does_not_fit_is_told_with_all_numbers_and_what_would(monkeypatch):
    message = explain(monkeypatch, free=6, loaded_bytes=10 * GIB)

    assert message == (
        "It does not fit: weights 10.00 GiB, cache 8.00 GiB (131,072 bytes a token) for "
        "8 slots of 8192 tokens; 6.00 GiB are free on cuda beside the weights. By this "
        "estimate what fits is max_num_seqs=3 with this length, or max_model_len=3072 "
        "with these slots."
    )


@pytest.mark.parametrize(
    ("free", "asked", "expected"),
    [
        (20, 2 * GIB, "max_num_seqs=6 with this length, or max_model_len=6144"),
        (20, 0, "max_num_seqs=7 with this length, or max_model_len=8128"),
        (1, 0, "max_num_seqs=4 with this length, or max_model_len=4608"),
        (20, 9 * GIB, "Use fewer and shorter slots"),
    ],
    ids=["room is made for what was asked", "asked unknown", "cache too large", "none"],
)
def test_what_fits_leaves_room_for_the_step_that_failed(
    monkeypatch, free, asked, expected
):
    loaded = NEEDED.total_bytes

    assert expected in explain(monkeypatch, free=free, loaded_bytes=loaded, asked=asked)


def test_nothing_fits_beside_weights_that_do_not_fit(monkeypatch):
    message = explain(monkeypatch, free=4)

    assert (
        "4.00 GiB are free on cuda. Use fewer and shorter slots, a smaller" in message
    )


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
        rf"^{doing} ran out of memory: weights .* GiB, cache .* \(512 bytes a token\) "
        r"for 4 slots of 128 tokens; .* GiB are free on cpu .* more were asked for",
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
        "unillm/tiny", backend="transformers", max_num_seqs=2, max_model_len=128
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
        load_engine(reference.path("llama"), max_num_seqs=4, max_model_len=128)

    assert re.search(
        r"weights of .*llama do not fit: weights .* GiB, cache .* \(512 bytes a token\) "
        r"for 4 slots of 128 tokens; .* GiB are free on cpu\. .*max_num_seqs=3",
        str(caught.value),
    )
