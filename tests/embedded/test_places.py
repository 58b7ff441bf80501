# SPDX-License-Identifier: Apache-2.0

"""Stored tensors without a place in the model, and places without a tensor."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from embedded.serving import serve_known

from unillm.embedded.loading import check_tensors, load_engine
from unillm.errors import ModelLoadError


@pytest.fixture
def llama(reference, tmp_path):
    """Return a copy that a test may change."""
    return Path(shutil.copytree(reference.path("llama"), tmp_path / "llama"))


def edit_config(path, **changes) -> None:
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def add_tensors(path, **tensors) -> None:
    file = path / "model.safetensors"
    stored = safetensors.torch.load_file(file)
    named = {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    safetensors.torch.save_file(stored | named, file, metadata={"format": "pt"})


# ------------------------------------------------------------------- without a place


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            {"model__layers__0__mlp__up_proj__weight_scale": torch.ones(1)},
            (
                r"1 tensors without a place in the model \(model\.layers\.0\.mlp\.up_proj\."
                r"weight_scale\)\. They look quantised, .* no quantization_config"
            ),
        ),
        (
            {"model__layers__0__self_attn__q_proj__bias": torch.ones(64)},
            r"without a place .*q_proj\.bias",
        ),
        ({"score__weight": torch.ones(2, 64)}, r"without a place .*score\.weight"),
        (
            {"model__layers__0__self_attn__bias": torch.ones(64)},
            r"without a place .*self_attn\.bias",
        ),
    ],
    ids=["scales", "a bias", "a classification head", "a bias named as a mask"],
)
def test_a_tensor_without_a_place_is_named(llama, tensors, message):
    add_tensors(llama, **tensors)

    with pytest.raises(ModelLoadError, match=message):
        load_engine(llama)


def test_scales_that_modelopt_declares_beside_the_config_are_left_to_the_engine(llama):
    add_tensors(llama, model__layers__0__mlp__up_proj__weight_scale=torch.ones(1))
    with pytest.raises(ModelLoadError, match="without a place"):
        check_tensors(llama)
    (llama / "hf_quant_config.json").write_text('{"quantization": {}}')

    check_tensors(llama)


def test_more_layers_than_the_configuration_declares_are_refused(llama):
    edit_config(llama, num_hidden_layers=1)

    with pytest.raises(
        ModelLoadError,
        match=r"without a place .*layers\.1\.(.|\n)* declares 1 layers, .* have 2\.",
    ):
        load_engine(llama)


def test_tensors_that_change_nothing_are_left_out(llama, reference):
    add_tensors(
        llama,
        model__layers__0__self_attn__rotary_emb__inv_freq=torch.ones(8),
        model__layers__1__self_attn__rotary_emb__cos_cached=torch.ones(1, 1, 64, 16),
        model__position_ids=torch.arange(64)[None],
        model__layers__0__attention__masked_bias=torch.tensor(-1e9),
        model__layers__0__attention__bias=torch.ones(1, 1, 8, 8, dtype=torch.bool),
    )

    serve_known(load_engine(llama), reference, "llama", 3)


def test_layers_for_speculation_alone_are_left_out(llama):
    edit_config(llama, num_nextn_predict_layers=1)
    add_tensors(llama, model__layers__2__eh_proj__weight=torch.ones(64, 128))

    assert load_engine(llama).num_slots == 8


def test_a_copy_of_a_tied_tensor_is_left_out(llama):
    edit_config(llama, tie_word_embeddings=True)
    stored = safetensors.torch.load_file(llama / "model.safetensors")
    add_tensors(llama, lm_head__weight=stored["model.embed_tokens.weight"].clone())

    assert load_engine(llama).num_slots == 8


# ------------------------------------------------------------------- without a tensor


@pytest.mark.parametrize(
    ("field", "tensor"),
    [
        ("intermediate_size", r"model\.layers\.0\.mlp\.down_proj\.weight"),
        ("hidden_size", r"model\.embed_tokens\.weight"),
        ("vocab_size", r"model\.embed_tokens\.weight"),
    ],
)
@pytest.mark.parametrize("size", [72, 2**21], ids=["another", "huge"])
def test_a_size_that_the_weights_do_not_have_is_named(llama, field, tensor, size):
    edit_config(llama, **{field: size})

    with pytest.raises(
        ModelLoadError,
        match=rf"of another shape \((.*, )?{tensor} is \[.*{size}.* by {field}={size}",
    ) as caught:
        load_engine(llama)

    assert "ignore_mismatched_sizes" not in str(caught.value)


def test_weights_that_a_bias_of_the_configuration_lacks_are_named(llama):
    edit_config(llama, attention_bias=True)

    with pytest.raises(ModelLoadError, match=r"8 tensors missing \(.*\.bias"):
        load_engine(llama)


# ----------------------------------------------------------------- compression_config


def test_a_quantisation_under_its_old_key_counts(llama):
    edit_config(llama, compression_config={"quant_method": "gptq"})

    with pytest.raises(Exception, match=r"quantised \(gptq\)"):
        load_engine(llama)
