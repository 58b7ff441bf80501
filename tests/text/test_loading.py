# SPDX-License-Identifier: Apache-2.0

"""What a model directory says about text, and where it is looked for."""

from __future__ import annotations

import json
import shutil

import pytest

from unillm.errors import UnsafeModelError
from unillm.model.find import find_model
from unillm.testing.hostile import trapped_model
from unillm.text.loading import load_tokenizer, read_model_text

TINY = find_model("unillm/tiny")


@pytest.fixture
def built(tmp_path):
    """An engine that was built: a config of its own kind, and no text at all."""
    path = tmp_path / "built"
    path.mkdir()
    content = {"pretrained_config": {"dtype": "float32"}, "eos_token_id": 3}
    (path / "config.json").write_text(json.dumps(content))
    return path


def test_a_model_says_it_all():
    found = read_model_text(TINY)

    ids = found.tokenizer.encode("Add 17 and 25:", add_special_tokens=False)
    assert "Add 17 and 25:" == found.tokenizer.decode(ids, skip_special_tokens=True)
    assert json.loads((TINY / "config.json").read_text()) == found.model_config
    assert set(found.model_config["eos_token_id"]) <= set(found.eos.ids)


def test_sampling_defaults_are_those_of_the_generation_config(tmp_path):
    model = tmp_path / "model"
    shutil.copytree(TINY, model)
    content = {"do_sample": True, "temperature": 0.25, "top_k": 7}
    (model / "generation_config.json").write_text(json.dumps(content))

    params = read_model_text(model).default_params

    assert (0.25, 7) == (params.temperature, params.top_k)


def test_an_engine_that_was_built_takes_its_text_from_its_tokenizers_directory(built):
    for tokenizer in (TINY, str(TINY)):
        found = read_model_text(built, tokenizer=tokenizer)

        assert read_model_text(TINY).eos == found.eos
        assert read_model_text(TINY).model_config == found.model_config
        assert read_model_text(TINY).default_params == found.default_params


def test_an_engine_that_was_built_has_no_config_beside_a_tokenizer_object(built):
    found = read_model_text(built, tokenizer=load_tokenizer(TINY))

    assert {} == found.model_config
    assert 3 not in found.eos.ids
    assert found.eos.ids


def test_a_models_own_generation_config_comes_first(tmp_path):
    other, model = tmp_path / "other", tmp_path / "model"
    for path, temperature in ((other, 0.5), (model, 0.25)):
        shutil.copytree(TINY, path)
        content = {"do_sample": True, "temperature": temperature}
        (path / "generation_config.json").write_text(json.dumps(content))

    assert 0.25 == read_model_text(model, tokenizer=other).default_params.temperature


def test_a_model_without_configs_has_empty_ones(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(TINY / name, model / name)

    found = read_model_text(model)

    assert {} == found.model_config
    assert found.eos.ids


def test_a_tokenizer_that_is_code_is_read_where_it_is_trusted_alone(tmp_path):
    model, canary = trapped_model("tokenizer", tmp_path)
    (model / "tokenizer.json").unlink()

    with pytest.raises(UnsafeModelError):
        read_model_text(model)

    assert not canary.exists()
