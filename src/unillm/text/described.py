# SPDX-License-Identifier: Apache-2.0

"""A tokenizer by its files alone, for questions that need no text encoded.

The tokenizers of transformers know how each family splits a text. Their special tokens,
their size and their chat templates stand in the files, and reading those imports
neither transformers nor torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import read_json, read_text
from ..model.directory import check_text_files
from . import templates
from .bounded import panics_as_errors
from .loading import load_tokenizer, template_files
from .tokenizer import RustTokenizer, Tokenizer
from .tokenizer_config import TOKEN_FLAGS, check_tokenizer_config
from .tokenizer_file import check_tokenizer_file

_CONFIG = "tokenizer_config.json"
_FILE = "tokenizer.json"

_GENERIC = frozenset({"PreTrainedTokenizerFast", "TokenizersBackend"})
"""Classes of transformers that name no tokens of their own."""

_KNOWN = _GENERIC | {
    *("CohereTokenizer", "CohereTokenizerFast", "GPT2Tokenizer", "GPT2TokenizerFast"),
    *("GPTNeoXTokenizer", "GPTNeoXTokenizerFast", "GemmaTokenizer"),
    *("GemmaTokenizerFast", "LlamaTokenizer", "LlamaTokenizerFast"),
    *("Qwen2Tokenizer", "Qwen2TokenizerFast"),
}
"""Classes whose vocabulary is that of ``tokenizer.json``."""

_NAMED = ("bos_token", "eos_token", "unk_token", "pad_token")


def describe_tokenizer(source: Any, *, trust_remote_code: bool = False) -> Tokenizer:
    """Return the tokenizer of a directory by its files, or else load it.

    Its ids, templates and size are those of the loaded one; `encode` may split a text
    in another way.

    Args:
        source: As for `load_tokenizer`.
        trust_remote_code: Run tokenizer code that the checkpoint brings.

    Raises:
        ModelError: As for `load_tokenizer`.
    """
    if isinstance(source, (str, os.PathLike)):
        path = Path(os.path.expanduser(source))
        if (path / _CONFIG).is_file() and (path / _FILE).is_file():
            check_text_files(path)
            check_tokenizer_config(path)
            config = read_json(path, _CONFIG) or {}
            if _is_described(config):
                check_tokenizer_file(path / _FILE)
                return _describe(path, config)
    return load_tokenizer(source, trust_remote_code=trust_remote_code)


def _is_described(config: Mapping[str, Any]) -> bool:
    """Whether the class of a tokenizer adds nothing to its files."""
    kind = config.get("tokenizer_class")
    names_all = kind in _GENERIC or all(name in config for name in _NAMED)
    named = isinstance(config.get("eos_token"), (str, Mapping))
    return kind in _KNOWN and names_all and named and "auto_map" not in config


def _describe(path: Path, config: Mapping[str, Any]) -> Tokenizer:
    import tokenizers

    special = {
        name: _text(config[name])
        for name in config
        if name.endswith("_token") and isinstance(config[name], (str, Mapping))
    }
    files = template_files(path)
    named = templates.templates_by_name(_templates(config.get("chat_template")))
    texts = {**named, **{name: read_text(file) for name, file in files.items()}}
    with panics_as_errors():
        wrapped = tokenizers.Tokenizer.from_file(str(path / _FILE))
        added = config.get("added_tokens_decoder") or {}
        for token_id in sorted(added, key=int):
            flags = {name: added[token_id].get(name, False) for name in TOKEN_FLAGS}
            token = tokenizers.AddedToken(_text(added[token_id]), **flags)
            wrapped.add_tokens([token])
        known = wrapped.get_added_tokens_decoder()
        for text in special.values():
            token_id = wrapped.token_to_id(text)
            if token_id not in known or not known[token_id].special:
                wrapped.add_special_tokens([tokenizers.AddedToken(text, special=True)])
        return RustTokenizer(
            wrapped,
            files=[str(path / _CONFIG), str(path / _FILE), *map(str, files.values())],
            chat_templates=texts,
            special_tokens=special,
        )


def _text(token: str | Mapping[str, Any]) -> str:
    return token if isinstance(token, str) else str(token["content"])


def _templates(value: Any) -> Any:
    """Return templates by name, of which a file has a list."""
    if isinstance(value, list):
        return {each["name"]: each["template"] for each in value}
    return value
