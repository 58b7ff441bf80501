# SPDX-License-Identifier: Apache-2.0

"""Packed weights give what plain ones give, and take no more memory."""

from __future__ import annotations

import gc

import pytest
import torch
from embedded.serving import PoisonedEngine, serve_known
from embedded.tiny_models import RECURRENT, make_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from unillm.embedded.loading import load_engine
from unillm.embedded.weights import onednn
from unillm.embedded.weights.fused import fuse_projections
from unillm.embedded.weights.onednn import PackedLinear, pack_linears


@pytest.fixture
def small_ones_too(monkeypatch):
    monkeypatch.setattr(onednn, "FEWEST_WEIGHTS", 0)


def packed_layers(model) -> list[str]:
    return [n for n, module in model.named_modules() if type(module) is PackedLinear]


@pytest.mark.parametrize("variant", ["llama", "qwen2", "gpt2", "mixtral", "phi3"])
@pytest.mark.usefixtures("small_ones_too")
def test_tokens_are_those_of_generate(reference, variant):
    check(reference, variant, 40, fewest_packed=4)


@pytest.mark.large
@pytest.mark.usefixtures("small_ones_too")
def test_tokens_of_every_family_are_those_of_generate(reference, family):
    if family in RECURRENT:
        pytest.skip("not packed")
    check(reference, family, 12, fewest_packed=1)


def check(reference, variant, count, *, fewest_packed):
    model = make_model(variant)
    fuse_projections(model)
    assert pack_linears(model) >= fewest_packed
    engine = PoisonedEngine(model, num_slots=5, max_model_len=224)

    serve_known(engine, reference, variant, count, budget=90)


@pytest.mark.parametrize("shape", [(1, 48), (8, 1, 48), (2, 9, 48)])
@pytest.mark.parametrize("kind", ["linear", "without bias", "Conv1D"])
@torch.inference_mode()
def test_a_packed_layer_does_what_the_layer_did(kind, shape):
    layer = Conv1D(20, 48) if kind == "Conv1D" else nn.Linear(48, 20, kind == "linear")
    given = torch.randn(shape)

    got = PackedLinear(layer)(given)

    torch.testing.assert_close(got, layer(given))


@pytest.mark.usefixtures("small_ones_too")
def test_weights_with_another_use_are_not_packed():
    tied, untied = make_model("qwen2"), make_model("llama")

    pack_linears(tied)
    pack_linears(untied)

    assert "lm_head" not in packed_layers(tied)
    assert "lm_head" in packed_layers(untied)


@pytest.mark.usefixtures("small_ones_too")
def test_a_packed_model_reports_the_same_size():
    model = make_model("llama")
    before = model.get_memory_footprint()

    pack_linears(model)

    # Each layer stores the number of its packed weights.
    assert model.get_memory_footprint() - before == 8 * len(packed_layers(model))


@pytest.mark.usefixtures("small_ones_too")
def test_packed_weights_are_freed_with_their_model():
    gc.collect()  # frees the models of earlier tests
    model = make_model("llama")
    before = len(onednn._packed)
    count = pack_linears(model)
    assert len(onednn._packed) == before + count

    del model
    gc.collect()

    assert len(onednn._packed) == before


def test_small_layers_stay_as_they_are():
    assert pack_linears(make_model("llama")) == 0


@pytest.mark.usefixtures("small_ones_too")
def test_layers_of_a_type_without_kernels_stay_as_they_are(monkeypatch):
    def refuse(layer):
        raise RuntimeError("needs the cpu support")

    monkeypatch.setattr(onednn, "PackedLinear", refuse)

    assert pack_linears(make_model("llama")) == 0


@pytest.mark.usefixtures("small_ones_too")
@pytest.mark.parametrize(("enforce_eager", "packed"), [(False, True), (True, False)])
def test_a_loaded_model_is_packed_unless_eager(reference, enforce_eager, packed):
    engine = load_engine(
        reference.path("llama"), device="cpu", enforce_eager=enforce_eager
    )

    assert bool(packed_layers(engine._model)) is packed
