# SPDX-License-Identifier: Apache-2.0

"""Each setting of a ``generation_config.json``, on the embedded engine and by
transformers' own ``generate``."""

from __future__ import annotations

import functools
import json
import logging
import re
import shutil
from pathlib import Path

import pytest

import unillm
from unillm import Generator, SamplingParams
from unillm.errors import ConfigError, InvalidParameterError, ModelLoadError
from unillm.model.find import find_model
from unillm.text.generation_config import (
    _READINGS,
    NOT_HONOURED,
    read_defaults,
    settings_of_config,
)

TINY = find_model("unillm/tiny")
PROMPT = "Count from 3 to 9:"
GREEDY = {"temperature": 0.0, "max_new_tokens": 24}


@functools.cache
def _reference():
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(TINY)
    return model, transformers.AutoTokenizer.from_pretrained(TINY)


def generated(settings):
    """Return the token ids that transformers generates greedily under *settings*."""
    from transformers import GenerationConfig

    model, tokenizer = _reference()
    ids = tokenizer(PROMPT, return_tensors="pt")
    named = {name: value for name, value in settings.items() if name != "temperature"}
    config = GenerationConfig(
        do_sample=False,
        eos_token_id=model.generation_config.eos_token_id,
        pad_token_id=model.generation_config.pad_token_id,
        **named,
    )
    model.generation_config, before = config, model.generation_config
    try:
        out = model.generate(**ids, tokenizer=tokenizer)
    finally:
        model.generation_config = before
    return out[0, ids["input_ids"].shape[1] :].tolist()


def model_with(tmp_path, name="generation_config.json", **settings):
    """Return a copy of the bundled model whose file *name* has other settings."""
    path = tmp_path / "model"
    shutil.copytree(TINY, path)
    (path / "generation_config.json").unlink()
    content = {}
    if name == "config.json":
        content = json.loads((path / name).read_text())
    (path / name).write_text(json.dumps({**content, **settings}))
    return path


def answered(path, **options):
    with Generator(path, dtype="float32", **options) as generator:
        return generator.generate(PROMPT)[0].outputs[0].token_ids


@pytest.fixture(scope="module")
def plain():
    return generated(GREEDY)


@pytest.mark.filterwarnings("ignore:An answer was cut")
@pytest.mark.parametrize(
    "settings",
    [
        {"max_new_tokens": 5},
        {"min_new_tokens": 20},
        {"max_new_tokens": None, "max_length": 20},
        {"min_length": 30},
        {"repetition_penalty": 1e4},
        {"stop_strings": ["5", "7"]},
        {"suppress_tokens": "the second token of the answer"},
        {"bad_words_ids": "the second token of the answer"},
        {"sequence_bias": "the second token of the answer"},
    ],
    ids="-".join,
)
def test_a_setting_with_a_field_gives_the_tokens_of_transformers(
    tmp_path, plain, settings
):
    second = {
        "suppress_tokens": [plain[1]],
        "bad_words_ids": [[plain[1]]],
        "sequence_bias": [[[plain[1]], -50.0]],
    }
    settings = {name: second.get(name, value) for name, value in settings.items()}
    settings = {**GREEDY, **settings}
    expected = generated(settings)
    assert expected != plain

    assert answered(model_with(tmp_path, **settings)) == expected


@pytest.mark.parametrize(
    "settings",
    [
        {"no_repeat_ngram_size": 1},
        {"begin_suppress_tokens": "the first token of the answer"},
        {"forced_eos_token_id": 506, "max_length": 18, "max_new_tokens": None},
        {"guidance_scale": 3.0},
        {"encoder_repetition_penalty": 0.2},
        {"encoder_no_repeat_ngram_size": 1},
        {"exponential_decay_length_penalty": [1, 50.0]},
        {"bad_words_ids": "two tokens of the answer"},
        {"sequence_bias": "two tokens of the answer"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_a_setting_without_a_field_changes_the_answer_of_transformers_and_is_named(
    tmp_path, plain, settings, caplog
):
    values = {
        "begin_suppress_tokens": [plain[0]],
        "bad_words_ids": [plain[:2]],
        "sequence_bias": [[plain[:2], -50.0]],
    }
    settings = {name: values.get(name, value) for name, value in settings.items()}
    settings = {**GREEDY, **settings}
    name = next(name for name in settings if name not in GREEDY)
    without = {key: value for key, value in settings.items() if key != name}
    assert generated(settings) != generated(without)

    model = model_with(tmp_path, **settings)
    with caplog.at_level(logging.WARNING, "unillm"), Generator(model):
        pass

    (said,) = [each.getMessage() for each in caplog.records]
    assert f"no backend honours {name}=" in said
    assert f"generation_config.json of {model}" in said
    with pytest.raises(ModelLoadError, match=f"no backend honours {name}="):
        Generator(model, strict_generation_config=True)


def test_every_setting_of_transformers_has_a_verdict():
    """A new version may bring a setting that changes answers."""
    transformers = pytest.importorskip("transformers")
    taken = {*_READINGS, *NOT_HONOURED, "max_length", "min_length"}
    of_eos = {"eos_token_id", "bos_token_id", "pad_token_id", "do_sample"}
    of_beams = {"early_stopping", "length_penalty"}  # num_beams is named
    speed = {
        *("use_cache", "cache_implementation", "cache_config", "max_cache_len"),
        *("compile_config", "disable_compile", "continuous_batching_config"),
        *("low_memory", "prefill_chunk_size", "use_mtp", "is_assistant"),
        *("num_assistant_tokens", "num_assistant_tokens_schedule"),
        *("assistant_confidence_threshold", "prompt_lookup_num_tokens"),
        *("max_matching_ngram_size", "assistant_early_exit", "assistant_lookbehind"),
        *("target_lookbehind", "assistant_ensemble_weight", "speculation_type"),
    }
    scores = {
        *("output_attentions", "output_hidden_states", "output_scores"),
        *("output_logits", "return_dict_in_generate", "renormalize_logits"),
        *("remove_invalid_values", "decoder_start_token_id", "transformers_version"),
        "_from_model_config",
    }

    known = taken | of_eos | of_beams | speed | scores
    assert set(transformers.GenerationConfig().to_dict()) - known == set()


def test_neutral_values_are_not_named():
    off = {name: values[-1] for name, values in NOT_HONOURED.items() if values}
    unset = dict.fromkeys(NOT_HONOURED)

    for content in (off, unset):
        found = read_defaults(content)
        assert found.remarks == ()
        assert found.params == SamplingParams()


def test_an_impossible_value_fails_only_calls_that_would_use_it(tmp_path, caplog):
    model = model_with(tmp_path, temperature="hot", top_k=7)

    with caplog.at_level(logging.WARNING, "unillm"), Generator(model) as generator:
        (said,) = [each.getMessage() for each in caplog.records]
        assert "temperature must be a number" in said
        named = r"generation_config\.json .* temperature must be a number .*'hot'"
        with pytest.raises(InvalidParameterError, match=named):
            generator.generate(PROMPT)
        with pytest.raises(InvalidParameterError, match=named):
            generator.get_default_sampling_params()
        greedy = SamplingParams(temperature=0, max_tokens=4)
        assert generator.generate(PROMPT, greedy)[0].text == "3 4 "


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("temperature", value) for value in ("0.6", -1, 3, [], float("nan"), True)),
        *(("top_p", value) for value in (0, 1.5, "x", {})),
        *(("max_new_tokens", value) for value in (0, -3, 1.5, "9")),
        *(("max_length", value) for value in ("9", 1.5, [])),
        *(("min_new_tokens", value) for value in (-1, "3")),
        *(("suppress_tokens", value) for value in (5, ["a"], [[5]], [-1])),
        *(("bad_words_ids", value) for value in (5, [5], [["a"]])),
        *(("sequence_bias", value) for value in (5, [5], [[[5]]], [[[5], "x"]])),
        *(("stop_strings", value) for value in (5, [5], [""])),
        *(("num_return_sequences", value) for value in (0, "2", 2**40)),
    ],
)
def test_an_odd_value_is_refused_with_its_field_and_nothing_else_is_lost(name, value):
    given = {"top_k": 7, name: value}

    found = read_defaults(given)

    assert list(found.refused) == [name]
    assert found.params.top_k == 7


def test_without_the_file_settings_in_config_json_count(tmp_path):
    transformers = pytest.importorskip("transformers")
    settings = {"temperature": 0.25, "top_k": 3, "suppress_tokens": [5]}
    path = model_with(tmp_path, "config.json", **settings, num_beams=2)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(path)
    counted = loaded.generation_config.to_diff_dict()
    assert {name: counted[name] for name in settings} == settings
    assert counted["num_beams"] == 2

    report = unillm.inspect_model(path)

    params = report.default_sampling_params
    assert (params.temperature, params.top_k) == (0.25, 3)
    assert params.logit_bias == {5: -100.0}
    assert report.default_remarks == ("no backend honours num_beams=2",)


def test_a_decoders_settings_fill_what_the_whole_leaves_open():
    config = {
        "top_p": 0.5,
        "max_length": 20,  # older transformers wrote these two unasked
        "text_config": {"top_p": 0.9, "temperature": 0.3, "top_k": 50},
    }

    assert settings_of_config(config) == {"top_p": 0.5, "temperature": 0.3}


def test_an_id_beyond_the_models_rows_needs_no_suppression():
    found = read_defaults({"suppress_tokens": [3, 600]}, vocab_size=512)

    assert found.params.logit_bias == {3: -100.0}
    assert found.remarks == ()


def test_overrides_of_llm_are_honoured_or_refused():
    llm = functools.partial(unillm.LLM, "unillm/tiny", backend="transformers")

    with pytest.raises(ConfigError, match="no backend honours num_beams=4"):
        llm(override_generation_config={"num_beams": 4})
    with llm(override_generation_config={"stop_strings": ["5"]}) as tiny:
        assert tiny.generate(PROMPT)[0].outputs[0].text == "3 4 "


def test_the_page_names_each_setting():
    page = Path(__file__).parents[2] / "docs" / "reference" / "generation-config.md"
    named = set(re.findall(r"`(\w+)`", page.read_text("utf-8")))

    assert {*_READINGS, *NOT_HONOURED, "max_length", "min_length"} - named == set()
