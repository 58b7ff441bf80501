# SPDX-License-Identifier: Apache-2.0

"""Files of a tokenizer that a library would not survive, and fields of a wrong type."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path

import pytest

from unillm.errors import ModelLoadError, TokenizerError
from unillm.model.find import find_model
from unillm.text.loading import load_tokenizer

TINY = find_model("unillm/tiny")
SEQUENCES = {
    "normalizer": ("normalizers", {"type": "NFC"}),
    "pre_tokenizer": ("pretokenizers", {"type": "Digits", "individual_digits": True}),
    "post_processor": (
        "processors",
        {"type": "RobertaProcessing", "sep": ["a", 1], "cls": ["b", 2]},
    ),
    "decoder": ("decoders", {"type": "Fuse"}),
}


@pytest.fixture(params=["tokenizer.json alone", "by transformers"])
def copied(request, tmp_path):
    shutil.copy(TINY / "tokenizer.json", tmp_path)
    if request.param == "by transformers":
        shutil.copy(TINY / "tokenizer_config.json", tmp_path)
        shutil.copy(TINY / "config.json", tmp_path)
    return tmp_path


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes))


# --------------------------------------------------------------------- tokenizer.json


def nested(part: str, levels: int) -> str:
    """Write the text, which Python's own encoder cannot nest so deep."""
    key, step = SEQUENCES[part]
    before = f'{{"type": "Sequence", "{key}": [' * levels
    return before + json.dumps(step) + "]}" * levels


@pytest.mark.parametrize("part", SEQUENCES)
@pytest.mark.parametrize("levels", [40, 100_000])
def test_steps_in_steps_are_refused(copied, part, levels):
    file = copied / "tokenizer.json"
    edit(file, **{part: "HERE"})
    file.write_text(file.read_text().replace('"HERE"', nested(part, levels)))

    with pytest.raises(ModelLoadError, match=r"tokenizer\.json is nested more than 64"):
        load_tokenizer(copied)


@pytest.mark.parametrize("part", SEQUENCES)
def test_too_many_steps_are_refused(copied, part):
    key, step = SEQUENCES[part]
    edit(
        copied / "tokenizer.json",
        **{part: {"type": "Sequence", key: [step] * 10_000}},
    )

    with pytest.raises(
        TokenizerError, match=rf"tokenizer\.json: {part} has 10,000 steps"
    ):
        load_tokenizer(copied)


@pytest.mark.parametrize("pattern", [{"String": "a"}, {"Regex": "a"}])
@pytest.mark.parametrize("part", ["normalizer", "decoder"])
def test_steps_that_multiply_a_text_are_refused(copied, part, pattern):
    key, _ = SEQUENCES[part]
    step = {"type": "Replace", "pattern": pattern, "content": "aa"}
    edit(copied / "tokenizer.json", **{part: {"type": "Sequence", key: [step] * 40}})

    with pytest.raises(TokenizerError, match=rf"{part} makes a text more than 1024"):
        load_tokenizer(copied)


def charsmap(size: int, rest: bytes) -> str:
    return base64.b64encode(size.to_bytes(4, "little") + rest).decode()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {
                "normalizer": {
                    "type": "Precompiled",
                    "precompiled_charsmap": charsmap(2**32 - 1, b"abc"),
                }
            },
            r"normalizer\.precompiled_charsmap is not a map",
        ),
        (
            {
                "normalizer": {
                    "type": "Precompiled",
                    "precompiled_charsmap": charsmap(1024, b"\xff" * 1024),
                }
            },
            r"cannot be read: RuntimeError: index out of bounds",
        ),
        (
            {
                "padding": {
                    "strategy": {"Fixed": 10**13},
                    "direction": "Right",
                    "pad_to_multiple_of": None,
                    "pad_id": 0,
                    "pad_type_id": 0,
                    "pad_token": "x",
                }
            },
            r"padding\.strategy\.Fixed is 10000000000000, which is not a length",
        ),
        (
            {
                "added_tokens": [
                    {
                        "id": 2**32 - 6,
                        "content": "<far>",
                        "single_word": False,
                        "lstrip": False,
                        "rstrip": False,
                        "normalized": False,
                        "special": True,
                    }
                ]
            },
            r"has the id 4,294,967,290",
        ),
        (
            {
                "post_processor": {
                    "type": "TemplateProcessing",
                    "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 5000,
                    "pair": [],
                    "special_tokens": {},
                }
            },
            r"post_processor\.single has 5,000 pieces",
        ),
    ],
    ids=["charsmap's size", "charsmap's trie", "padding", "ids", "template"],
)
def test_a_part_that_ends_the_process_is_refused(copied, changes, message):
    edit(copied / "tokenizer.json", **changes)

    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(copied)


def test_steps_of_known_models_are_read(copied):
    """Llama 2 and Gemma replace a space by three bytes; T5 has a map of characters."""
    steps = [
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"},
    ]
    edit(
        copied / "tokenizer.json",
        normalizer={"type": "Sequence", "normalizers": steps},
    )

    assert load_tokenizer(copied).vocab_size == load_tokenizer(TINY).vocab_size


# -------------------------------------------------------------- tokenizer_config.json


@pytest.mark.parametrize(
    ("name", "field", "value", "named"),
    [
        ("tokenizer_config.json", "eos_token", 7, "eos_token"),
        ("tokenizer_config.json", "bos_token", {"content": 7}, r"bos_token\.content"),
        (
            "special_tokens_map.json",
            "eos_token",
            {"content": "x", "lstrip": "no"},
            r"eos_token\.lstrip",
        ),
        ("special_tokens_map.json", "unk_token", "\ud800", "unk_token"),
        ("tokenizer_config.json", "additional_special_tokens", {}, "additional_"),
        ("tokenizer_config.json", "extra_special_tokens", {"a": 1}, "extra_.*a"),
        ("tokenizer_config.json", "added_tokens_decoder", [1], "added_tokens_decoder"),
        (
            "tokenizer_config.json",
            "added_tokens_decoder",
            {"99999999": {"content": "x"}},
            r"added_tokens_decoder\.99999999",
        ),
        ("tokenizer_config.json", "chat_template", [{"name": "a"}], "chat_template"),
        ("tokenizer_config.json", "padding_side", "up", "padding_side"),
        ("tokenizer_config.json", "tokenizer_class", 7, "tokenizer_class"),
        ("tokenizer_config.json", "model_max_length", "long", "model_max_length"),
        ("tokenizer_config.json", "auto_map", ["a"], "auto_map"),
        ("added_tokens.json", "<x>", 2**40, "<x>"),
    ],
)
def test_the_error_of_a_wrong_type_names_file_and_field(
    tmp_path, name, field, value, named
):
    model = Path(shutil.copytree(TINY, tmp_path / "model"))
    if not (model / name).is_file():
        (model / name).write_text("{}")
    edit(model / name, **{field: value})

    with pytest.raises(TokenizerError, match=rf"model/{name}: {named}.* must be "):
        load_tokenizer(model)


def test_a_fault_of_the_models_configuration_is_not_the_tokenizers(tmp_path):
    model = Path(shutil.copytree(TINY, tmp_path / "model"))
    edit(model / "config.json", mlp_bias={"a": 1})

    with pytest.raises(ModelLoadError, match=r"cannot read .*config\.json: .*mlp_bias"):
        load_tokenizer(model)
