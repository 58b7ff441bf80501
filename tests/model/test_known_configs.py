# SPDX-License-Identifier: Apache-2.0

"""Configurations that are read without transformers, against transformers' own."""

from __future__ import annotations

import json

import pytest
import write_known_configs
from embedded.tiny_models import CONFIGS, VARIANTS, model_type_of
from transformers import CONFIG_MAPPING

from unillm.model import known_configs
from unillm.model.known_configs import KnownConfig, known_config
from unillm.model.memory import needs_of
from unillm.model.positions import positions_of
from unillm.model.sizes import first_of

KNOWN = [
    variant
    for variant in VARIANTS
    if model_type_of(variant) not in write_known_configs.ASKED
]


def facts(config):
    """Return everything that the formulas make of a configuration."""
    windows = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    return {
        "needs": needs_of(config, weight_bytes=1, item_bytes=2),
        "positions": positions_of(config),
        "windows": bool(windows or getattr(config, "sliding_window", None)),
        "experts": first_of(config, "num_experts_per_tok", "num_experts_per_token"),
        "of experts": first_of(
            config, "num_local_experts", "num_experts", "n_routed_experts"
        ),
    }


def test_the_data_is_that_of_the_installed_transformers():
    written = json.loads(known_configs.DATA.read_text())

    assert written == json.loads(json.dumps(write_known_configs.families()))


@pytest.mark.parametrize("variant", KNOWN)
def test_sizes_are_those_of_transformers(variant):
    """For a file with the least fields, and for one that transformers saved."""
    name = model_type_of(variant)
    theirs = CONFIG_MAPPING[name](**CONFIGS[variant])
    saved = json.loads(theirs.to_json_string(use_diff=True))

    for declared in ({"model_type": name, **CONFIGS[variant]}, saved):
        config = known_config(declared)
        assert isinstance(config, KnownConfig)
        assert facts(config) == facts(theirs)


@pytest.mark.parametrize("variant", KNOWN)
def test_a_file_without_sizes_gets_the_defaults_or_is_left_to_transformers(variant):
    name = model_type_of(variant)

    config = known_config({"model_type": name})

    assert config is None or facts(config) == facts(CONFIG_MAPPING[name]())


@pytest.mark.parametrize(
    ("rope", "positions"),
    [
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, 4 * 256),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, 2 * 256),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 256),
        ({"rope_theta": 5e5}, 256),
    ],
    ids=["linear", "dynamic", "llama3", "none"],
)
def test_older_names_of_rope_settings_are_read(rope, positions):
    declared = {"model_type": "llama", **CONFIGS["llama"], **rope}

    assert positions_of(known_config(declared)) == positions


def test_the_older_name_of_rope_settings_goes_first():
    declared = {
        "model_type": "llama",
        **CONFIGS["llama"],
        "rope_scaling": {"type": "linear", "factor": 4.0},
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
    }

    assert positions_of(known_config(declared)) == 4 * 256
    assert positions_of(CONFIG_MAPPING["llama"](**declared)) == 4 * 256


def test_a_switch_of_other_families_leaves_windows_on():
    changed = {"use_sliding_window": False, "sliding_window": 64}
    declared = {"model_type": "mistral", **CONFIGS["mistral"], **changed}

    theirs = CONFIG_MAPPING["mistral"](**declared)

    assert facts(known_config(declared)) == facts(theirs)
    assert facts(theirs)["windows"]


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "mamba2"},
        {"model_type": "unknown"},
        {"auto_map": {"AutoConfig": "configuration.Own"}},
        {"text_config": {}},
        {"model_type": "gemma2", "layer_types": None},
        {"model_type": "cohere2", "layer_types": None, "use_sliding_window": False},
        {"model_type": "mistral", "layer_types": ["full_attention"]},
        {"model_type": "ernie4_5", "head_dim": None},
        {"model_type": "minicpm3", "head_dim": 96},
    ],
    ids=lambda change: next(iter(change.items()))[1],
)
def test_what_needs_code_of_transformers_is_left_to_it(change):
    declared = {"model_type": "llama", **CONFIGS["llama"], **change}

    assert known_config(declared) is None
