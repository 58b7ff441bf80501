# SPDX-License-Identifier: Apache-2.0

"""The fields of a tokenizer's configuration files, checked before they are used.

The errors of transformers name the type of a value, and neither the file nor the field.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import TokenizerError
from ..files import read_json
from .tokenizer_file import MAX_TOKEN_ID

CONFIG_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")

_TOKENS = (
    *("bos_token", "eos_token", "pad_token", "unk_token"),
    *("cls_token", "sep_token", "mask_token"),
)
TOKEN_FLAGS = ("lstrip", "rstrip", "normalized", "single_word", "special")
_TEXTS = ("tokenizer_class", "processor_class", "name_or_path")
_SIDES = ("padding_side", "truncation_side")
_NUMBER = re.compile(r"[0-9]{1,9}")


def check_tokenizer_config(path: Path) -> None:
    """Check the configuration files of a tokenizer's directory.

    Raises:
        ModelLoadError: A file is broken.
        TokenizerError: A field has a value of the wrong type.
    """
    for name in CONFIG_FILES:
        content = read_json(path, name) or {}
        faults = _added_faults if name == "added_tokens.json" else _faults
        for field, expected, value in faults(content):
            raise TokenizerError(
                f"{path / name}: {field} must be {expected}, got {value!r:.80}. "
                "Correct the file, or download it again."
            )


def _faults(content: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield name, expectation and value of each field that is wrong."""
    for name in _TOKENS:
        yield from _token_faults(name, content.get(name))
    yield from _list_faults(content, "additional_special_tokens")
    named = content.get("extra_special_tokens")
    if isinstance(named, Mapping):
        for name, token in named.items():
            yield from _token_faults(f"extra_special_tokens.{name:.20}", token)
    else:
        yield from _list_faults(content, "extra_special_tokens")
    yield from _decoder_faults(content.get("added_tokens_decoder"))
    yield from _template_faults(content.get("chat_template"))
    code = content.get("auto_map")
    if not (code is None or isinstance(code, Mapping) or _is_pair(code)):
        yield "auto_map", "an object", code
    for name in _TEXTS:
        value = content.get(name)
        if value is not None and not _is_text(value):
            yield name, "a text", value
    for name in _SIDES:
        value = content.get(name)
        if value not in (None, "left", "right"):
            yield name, "'left' or 'right'", value
    length = content.get("model_max_length")
    if isinstance(length, bool) or not isinstance(length, (int, float, type(None))):
        yield "model_max_length", "a number", length


def _list_faults(
    content: Mapping[str, Any], name: str
) -> Iterator[tuple[str, str, Any]]:
    tokens = content.get(name)
    if tokens is not None and not isinstance(tokens, list):
        yield name, "a list of tokens", tokens
        return
    for token in tokens or ():
        yield from _token_faults(name, token)


def _is_pair(code: Any) -> bool:
    """Whether a value names a slow and a fast class, as older checkpoints do."""
    return (
        isinstance(code, list)
        and len(code) == 2
        and all(name is None or isinstance(name, str) for name in code)
    )


def _decoder_faults(added: Any) -> Iterator[tuple[str, str, Any]]:
    if added is None:
        return
    if not isinstance(added, Mapping):
        yield "added_tokens_decoder", "an object", added
        return
    for token_id, token in added.items():
        field = f"added_tokens_decoder.{token_id:.20}"
        if not (_NUMBER.fullmatch(token_id) and int(token_id) < MAX_TOKEN_ID):
            yield field, f"under a token id below {MAX_TOKEN_ID:,}", token_id
        if not isinstance(token, Mapping):
            yield field, "an object", token
        yield from _token_faults(field, token)


def _added_faults(content: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    for name, value in content.items():
        if type(value) is not int or not 0 <= value < MAX_TOKEN_ID:
            yield f"{name:.40}", f"a token id below {MAX_TOKEN_ID:,}", value


def _token_faults(name: str, token: Any) -> Iterator[tuple[str, str, Any]]:
    if token is None or _is_text(token):
        return
    if not isinstance(token, Mapping):
        yield name, "a token: a text, or an object with its content", token
        return
    if not _is_text(token.get("content")):
        yield f"{name}.content", "a text", token.get("content")
    for flag in TOKEN_FLAGS:
        if not isinstance(token.get(flag, False), bool):
            yield f"{name}.{flag}", "true or false", token[flag]


def _template_faults(template: Any) -> Iterator[tuple[str, str, Any]]:
    named = isinstance(template, list) and all(
        isinstance(each, Mapping)
        and _is_text(each.get("name"))
        and _is_text(each.get("template"))
        for each in template
    )
    if template is not None and not _is_text(template) and not named:
        yield "chat_template", "a text, or a list of names and templates", template


def _is_text(value: Any) -> bool:
    """Whether a value is a text that UTF-8 can hold: without half a surrogate pair."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
