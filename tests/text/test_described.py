# SPDX-License-Identifier: Apache-2.0

"""Tokenizers that are described by their files, against those that are loaded."""

from __future__ import annotations

import json
import shutil

import pytest

from unillm.files import read_json
from unillm.model.find import find_model
from unillm.text import described
from unillm.text.described import describe_tokenizer
from unillm.text.eos import resolve_eos
from unillm.text.loading import load_tokenizer
from unillm.text.tokenizer import RustTokenizer, TransformersTokenizer

TINY = find_model("unillm/tiny")
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello <>&"},
]


@pytest.fixture
def directory(tmp_path):
    """Return a function that copies the tokenizer with changes of its configuration."""

    def make(**changes):
        path = tmp_path / "tokenizer"
        shutil.copytree(TINY, path, dirs_exist_ok=True)
        config = read_json(path, "tokenizer_config.json") | changes
        config = {name: value for name, value in config.items() if value is not ...}
        (path / "tokenizer_config.json").write_text(json.dumps(config))
        return path

    return make


ALL_NAMED = {"unk_token": None, "tokenizer_class": "Qwen2Tokenizer"}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tokenizer_class": "TokenizersBackend"},
        ALL_NAMED,
        ALL_NAMED | {"tokenizer_class": "GPT2TokenizerFast", "eos_token": "<|eom_id|>"},
        {"eos_token": {"content": "<|end_of_text|>", "__type": "AddedToken"}},
        {"eos_token": "<|new|>"},
        {"pad_token": "3", "eos_token": "4"},
        {
            "added_tokens_decoder": {
                "512": {"content": "<|late|>", "special": True},
                "513": {"content": "plain", "special": False},
            },
        },
        {
            "chat_template": [
                {"name": "default", "template": "{{ bos_token }}{{ messages }}"},
                {"name": "tool_use", "template": "{{ eos_token }}"},
            ]
        },
    ],
    ids=[
        "as it is",
        "another generic class",
        "Qwen2",
        "GPT-2",
        "a token with flags",
        "a token outside of the file",
        "plain tokens are named",
        "added tokens",
        "templates by name",
    ],
)
def test_a_described_tokenizer_is_the_loaded_one(changes, directory):
    path = directory(**changes)
    if "chat_template" in changes:
        (path / "chat_template.jinja").unlink()

    ours, theirs = describe_tokenizer(path), load_tokenizer(path)

    assert isinstance(ours, RustTokenizer)
    assert isinstance(theirs, TransformersTokenizer)
    for name in ("eos_token_id", "bos_token_id", "vocab_size", "special_token_ids"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert dict(ours.chat_templates) == dict(theirs.chat_templates)
    assert ours.apply_chat_template(MESSAGES) == theirs.apply_chat_template(MESSAGES)
    config = read_json(path, "config.json")
    assert resolve_eos(ours, config=config) == resolve_eos(theirs, config=config)


@pytest.mark.parametrize(
    "changes",
    [
        {"tokenizer_class": "T5Tokenizer"},
        {"tokenizer_class": ...},
        {"eos_token": ...},
        {"tokenizer_class": "Qwen2Tokenizer"},
    ],
    ids=["unknown class", "no class", "no EOS token", "the class names the rest"],
)
def test_a_tokenizer_whose_class_matters_is_loaded(changes, directory, monkeypatch):
    loaded = []
    monkeypatch.setattr(
        described, "load_tokenizer", lambda source, **_: loaded.append(source)
    )
    path = directory(**changes)

    describe_tokenizer(path)

    assert loaded == [path]
