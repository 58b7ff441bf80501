# SPDX-License-Identifier: Apache-2.0

"""How many positions a model was made for, by its directory."""

from __future__ import annotations

import json

import pytest

from unillm.errors import ModelLoadError
from unillm.model.positions import UNBOUNDED, model_positions

LONGROPE = {
    "model_type": "phi3",
    "max_position_embeddings": 4096,
    "original_max_position_embeddings": 256,
    "rope_scaling": {
        "type": "longrope",
        "short_factor": [1.0] * 48,
        "long_factor": [4.0] * 48,
    },
}


def scaled(kind, *, factor=4.0, model_type="llama", **options):
    return {
        "model_type": model_type,
        "max_position_embeddings": 64,
        "rope_scaling": {"type": kind, "factor": factor, **options},
    }


@pytest.fixture
def directory(tmp_path):
    def write(config):
        (tmp_path / "config.json").write_text(json.dumps(config))
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        ({"model_type": "llama", "max_position_embeddings": 64}, 64),
        ({"model_type": "llama"}, 2048),
        ({"model_type": "gpt2", "n_positions": 64}, 64),
        ({"model_type": "mamba"}, UNBOUNDED),
        ({"model_type": "gemma3", "text_config": {"max_position_embeddings": 64}}, 64),
        (LONGROPE, 256),
        ({"model_type": "unheard-of", "n_ctx": 64}, 64),
        ({"model_type": "unheard-of", "text_config": {"seq_length": 64}}, 64),
        (LONGROPE | {"model_type": "unheard-of"}, 256),
        (scaled("linear"), 256),
        (scaled("dynamic"), 256),
        (scaled("linear", model_type="unheard-of"), 256),
        (scaled("linear", factor=2.5), 160),
        (scaled("linear", factor=1), 64),
        (scaled("yarn"), 64),
        (scaled("llama3", low_freq_factor=1.0, high_freq_factor=4.0), 64),
        (scaled("linear", model_type="gemma3_text"), 64),
        (scaled("linear", model_type="opt"), 64),
    ],
    ids=[
        "named",
        "transformers' default",
        "older name",
        "unbounded",
        "multimodal",
        "longrope",
        "unknown to transformers",
        "unknown, multimodal",
        "unknown, longrope",
        "linear",
        "dynamic",
        "unknown, linear",
        "linear, by a fraction",
        "linear, by one",
        "yarn",
        "llama3",
        "linear in Gemma 3, which declares the extended context",
        "linear without rotary embeddings",
    ],
)
def test_positions_are_read_from_the_configuration(directory, config, positions):
    assert model_positions(directory(config)) == positions


def test_the_long_factors_of_longrope_count_where_they_are_asked_for(directory):
    assert model_positions(directory(LONGROPE), extended=True) == 4096


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "unheard-of"},
        {"model_type": "unheard-of"}
        | {
            "rope_scaling": {
                "type": "longrope",
                "original_max_position_embeddings": "x",
            }
        },
    ],
    ids=["no name", "longrope"],
)
def test_a_config_of_no_use_is_refused_with_the_error_and_the_names(directory, config):
    with pytest.raises(
        ModelLoadError,
        match=r"transformers cannot read (.|\n)*max_position_embeddings, n_positions",
    ):
        model_positions(directory(config))
