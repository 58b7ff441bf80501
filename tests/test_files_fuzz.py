# SPDX-License-Identifier: Apache-2.0

"""Each file of a model, changed at random: the model works, or an error names the file."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unillm import Generator, LoRARequest, SamplingParams
from unillm.errors import (
    ChatTemplateError,
    EosNotFoundError,
    InvalidPromptError,
    ModelLoadError,
    UnillmError,
    UnsafeModelError,
    UnsupportedModelError,
)
from unillm.lora import KnownAdapters
from unillm.model.find import find_model

TINY = find_model("unillm/tiny")
GREEDY = SamplingParams(temperature=0, max_tokens=2)
PATIENCE_S = 30.0

ADAPTER = {
    "peft_type": "LORA",
    "r": 4,
    "lora_alpha": 8,
    "target_modules": ["q_proj"],
    "rank_pattern": {"layers.0": 2},
}
TOKENS = {
    "bos_token": "<|begin_of_text|>",
    "eos_token": {"content": "<|eot_id|>", "lstrip": False, "normalized": False},
    "additional_special_tokens": ["<|eom_id|>"],
}

ODD = (
    *(None, True, 0, -1, 3, 3.5, 1e308, float("nan"), float("inf")),
    *(10**6, 10**12, 2**31, 2**64, 10**400),
    *("", "x", "\ud800", "a" * 5000, "/dev/zero", "../../x", "evil.Code"),
    *([], {}, [[]], [1], ["a"], [None], {"a": 1}, {"a": {"b": [1]}}),
)
"""Values that stand in no file, or in another place of it."""

FIELDS = {
    "config.json": (
        *("rope_scaling", "rope_parameters", "sliding_window", "layer_types"),
        *("quantization_config", "compression_config", "text_config", "auto_map"),
        *("num_key_value_heads", "head_dim", "tie_word_embeddings", "dtype"),
        *("eos_token_id", "pad_token_id", "bos_token_id", "is_encoder_decoder"),
        *("hidden_act", "id2label", "num_labels", "_attn_implementation", "max_length"),
    ),
    "generation_config.json": (
        *("temperature", "top_k", "top_p", "max_new_tokens", "eos_token_id"),
        *("suppress_tokens", "bad_words_ids", "stop_strings", "sequence_bias"),
        *("min_length", "max_length", "watermarking_config", "cache_config"),
    ),
    "tokenizer_config.json": (
        *("chat_template", "bos_token", "eos_token", "added_tokens_decoder"),
        *("additional_special_tokens", "extra_special_tokens", "tokenizer_class"),
        *("auto_map", "model_max_length", "padding_side", "model_input_names"),
        *("add_bos_token", "split_special_tokens", "vocab_file", "tokenizer_file"),
    ),
    "special_tokens_map.json": ("pad_token", "unk_token", "extra_special_tokens"),
    "adapter_config.json": ("alpha_pattern", "bias", "use_rslora", "modules_to_save"),
}
"""Further fields that some library reads."""


# ------------------------------------------------------------------------- mutations


def places(content, path=()):
    """Return the paths of values in a JSON value, of a long list or object the first."""
    if isinstance(content, dict):
        inner = list(content.items())[:60]
    else:
        inner = list(enumerate(content[:8])) if isinstance(content, list) else []
    found = [path] if path else []
    for key, value in inner:
        found += places(value, (*path, key))
    return found


def changed(content, path, value):
    content = copy.copy(content)
    if len(path) > 1:
        content[path[0]] = changed(content[path[0]], path[1:], value)
    else:
        content[path[0]] = value
    return content


def mutated_json(content, name):
    fields = [(field,) for field in FIELDS.get(name, ())]
    place = st.sampled_from(places(content) + fields)
    edits = st.lists(st.tuples(place, st.sampled_from(ODD)), min_size=1, max_size=2)

    def apply(edits):
        text = content
        for path, value in edits:
            try:
                text = changed(text, path, value)
            except (KeyError, IndexError, TypeError):
                continue  # the other edit took this place away
        return json.dumps(text).encode()

    return edits.map(apply)


def mutated_bytes(content):
    """Cut, repeat or overwrite a part of the bytes."""
    position = st.integers(0, len(content))
    noise = st.binary(max_size=12)

    def apply(parts):
        start, end, put = parts
        start, end = sorted((start, end))
        return content[:start] + put + content[end:]

    return st.tuples(position, position, noise).map(apply)


# ----------------------------------------------------------------------- the property


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = Path(shutil.copytree(TINY, tmp_path_factory.mktemp("fuzz") / "model"))
    (path / "special_tokens_map.json").write_text(json.dumps(TOKENS))
    return path


def start(model) -> None:
    """Use a model as a program does."""
    with Generator(
        model, backend="transformers", enforce_eager=True, max_num_seqs=1
    ) as generator:
        try:
            generator.generate("Add 1 and 2:", GREEDY, timeout_s=PATIENCE_S)
            generator.chat([{"role": "user", "content": "hi"}], GREEDY)
        except (ChatTemplateError, InvalidPromptError):
            return  # a BOS token that the model has no row for, for example


def check(model, name, content, *, start=start) -> None:
    """Put *content* in a file of a model, use it, and put the file back."""
    file = model / name
    before = file.read_bytes() if file.exists() else None
    file.write_bytes(content)
    try:
        start(model)
    except ModelLoadError as error:
        assert name in str(error)
    except (EosNotFoundError, UnsafeModelError, UnsupportedModelError) as error:
        assert str(error)
    finally:
        if before is None:
            file.unlink()
        else:
            file.write_bytes(before)


def fuzzed(max_examples):
    return settings(
        max_examples=max_examples,
        deadline=None,
        suppress_health_check=[
            HealthCheck.function_scoped_fixture,
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
        ],
    )


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
    ],
)
@fuzzed(25)
@given(data=st.data())
def test_any_value_of_any_field_works_or_names_the_file(model, name, data):
    content = json.loads((model / name).read_text("utf-8"))

    check(model, name, data.draw(mutated_json(content, name)))


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "model.safetensors",
    ],
)
@fuzzed(10)
@given(data=st.data())
def test_any_bytes_work_or_name_the_file(model, name, data):
    original = (model / name).read_bytes() if (model / name).exists() else b"{{ x }}"

    check(model, name, data.draw(mutated_bytes(original)))


@fuzzed(25)
@given(data=st.data())
def test_any_index_works_or_names_the_file(model, data):
    index = {"metadata": {"total_size": 1}, "weight_map": {"a": "b.safetensors"}}
    content = data.draw(mutated_json(index, "model.safetensors.index.json"))

    check(model, "model.safetensors.index.json", content)


@fuzzed(30)
@given(data=st.data())
def test_any_header_of_weights_works_or_names_the_file(model, data):
    raw = (model / "model.safetensors").read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    text = data.draw(mutated_json(header, "model.safetensors"))

    content = len(text).to_bytes(8, "little") + text + raw[8 + size :]
    check(model, "model.safetensors", content)


@fuzzed(30)
@given(data=st.data())
def test_any_adapter_is_taken_or_refused_by_name(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("adapter")
    content = data.draw(mutated_json(ADAPTER, "adapter_config.json"))
    (path / "adapter_config.json").write_bytes(content)
    (path / "adapter_model.safetensors").write_bytes(b"\x02" + bytes(7) + b"{}")

    try:
        KnownAdapters(max_rank=8).check(LoRARequest("one", 1, str(path)))
    except UnillmError as error:
        assert "'one'" in str(error)
