# SPDX-License-Identifier: Apache-2.0

"""Packed weights give what plain ones give, and take no more memory."""

from __future__ import annotations

import gc

import pytest
import torch
from embedded.test_greedy import PoisonedEngine, assert_same_tokens
from embedded.tiny_models import family_of, make_model, serve
from torch import nn
from transformers.pytorch_utils import Conv1D

from unillm.embedded.engine import TransformersSlotEngine
from unillm.embedded.families import RECURRENT
from unillm.embedded.loading import load_engine
from unillm.embedded.weights import onednn as linears
from unillm.embedded.weights.fused import fuse_projections
from unillm.embedded.weights.onednn import PackedLinear, pack_linears


@pytest.fixture
def small_ones_too(monkeypatch):
    monkeypatch.setattr(linears, "FEWEST_WEIGHTS", 0)


def packed_layers(model) -> list[str]:
    return [n for n, module in model.named_modules() if type(module) is PackedLinear]


@pytest.mark.parametrize("variant", ["llama", "qwen2", "gpt2", "mixtral", "phi3"])
@pytest.mark.usefixtures("small_ones_too")
def test_tokens_are_those_of_generate(reference, variant):
    known = reference.known(variant, 40)
    model = make_model(variant)
    fuse_projections(model)
    assert pack_linears(model) > 3
    engine = PoisonedEngine(model, num_slots=5, max_model_len=224)

    got = serve(engine, [k.request for k in known], max_num_batched_tokens=90)

    assert_same_tokens(reference.model(variant), known, got)


@pytest.mark.large
@pytest.mark.usefixtures("small_ones_too")
def test_tokens_of_every_family_are_those_of_generate(reference, family):
    if family_of(family) in RECURRENT:
        pytest.skip("not packed")
    known = reference.known(family, 12)
    model = make_model(family)
    fuse_projections(model)
    assert pack_linears(model) > 0
    engine = PoisonedEngine(model, num_slots=4, max_model_len=224)

    got = serve(engine, [k.request for k in known], max_num_batched_tokens=90)

    assert_same_tokens(reference.model(family), known, got)


@pytest.mark.parametrize("shape", [(1, 48), (8, 1, 48), (2, 9, 48)])
@pytest.mark.parametrize("kind", ["linear", "without bias", "Conv1D"])
@torch.inference_mode()
def test_a_packed_layer_does_what_the_layer_did(kind, shape):
    layer = Conv1D(20, 48) if kind == "Conv1D" else nn.Linear(48, 20, kind == "linear")
    given = torch.randn(shape)

    got = PackedLinear(layer)(given)

    torch.testing.assert_close(got, layer(given))


@pytest.mark.usefixtures("small_ones_too")
def test_weights_with_another_use_are_not_doubled():
    tied, untied = make_model("qwen2"), make_model("llama")

    pack_linears(tied)
    pack_linears(untied)

    assert "lm_head" not in packed_layers(tied)
    assert "lm_head" in packed_layers(untied)


@pytest.mark.usefixtures("small_ones_too")
def test_the_size_of_a_model_is_told_as_before():
    model = make_model("llama")
    before = model.get_memory_footprint()

    pack_linears(model)

    # Each layer has the number under which its weights are kept.
    assert model.get_memory_footprint() - before == 8 * len(packed_layers(model))


@pytest.mark.usefixtures("small_ones_too")
def test_packed_weights_go_with_their_model():
    gc.collect()  # those of earlier tests
    model = make_model("llama")
    before = len(linears._packed)
    count = pack_linears(model)
    assert len(linears._packed) == before + count

    del model
    gc.collect()

    assert len(linears._packed) == before


def test_small_layers_stay_as_they_are():
    assert pack_linears(make_model("llama")) == 0


@pytest.mark.usefixtures("small_ones_too")
def test_a_type_that_cannot_be_packed_stays_as_it_is(monkeypatch):
    def refuse(layer):
        raise RuntimeError("needs the cpu support")

    monkeypatch.setattr(linears, "PackedLinear", refuse)

    assert pack_linears(make_model("llama")) == 0


@pytest.mark.usefixtures("small_ones_too")
@pytest.mark.parametrize(("enforce_eager", "packed"), [(False, True), (True, False)])
def test_a_loaded_model_is_packed_unless_eager(reference, enforce_eager, packed):
    engine = load_engine(
        reference.path("llama"), device="cpu", enforce_eager=enforce_eager
    )

    assert bool(packed_layers(engine._model)) is packed
    assert isinstance(engine, TransformersSlotEngine)
