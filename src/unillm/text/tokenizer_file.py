# SPDX-License-Identifier: Apache-2.0

"""The structure of a ``tokenizer.json``, checked before the library reads it.

The tokenizers library is compiled: a file that overflows its stack or memory ends the
process, and steps that multiply the text give no answer. Neither can be caught, so the
numbers that lead there have limits.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import TokenizerError
from ..files import read_json

MAX_TOKEN_ID = 2**22
"""Bound of token ids: sixteen times the largest vocabulary."""

MAX_STEPS = 200
"""Steps of a normalizer, pre-tokenizer, post-processor or decoder; models have ten."""

MAX_GROWTH = 1024
"""How many times its length a text may become in the steps that replace patterns."""

MAX_TEMPLATE = 1000
"""Special tokens that a post-processor may add to a text."""

_MAX_LENGTH = 2**31

_STEPS = {
    "normalizer": "normalizers",
    "pre_tokenizer": "pretokenizers",
    "post_processor": "processors",
    "decoder": "decoders",
}
"""Parts of the file, and the key of a sequence of each."""


def check_tokenizer_file(path: Path) -> None:
    """Check a ``tokenizer.json``; without such a file there is nothing to check.

    Raises:
        ModelLoadError: It is broken.
        TokenizerError: A part of it exceeds a limit.
    """
    content = read_json(path.parent, path.name)
    if content is None:
        return
    for field, reason in _faults(content):
        raise TokenizerError(
            f"{path}: {field} {reason}. Copy or download it again, or pass tokenizer= "
            "with another tokenizer."
        )


def _faults(content: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each field that exceeds a limit, and the reason."""
    for part, key in _STEPS.items():
        steps = list(_flattened(content.get(part), key))
        if len(steps) > MAX_STEPS:
            yield part, f"has {len(steps):,} steps, and at most {MAX_STEPS} are read"
        growth = 1
        for step in steps:
            growth *= _growth_of(step)
            if growth > MAX_GROWTH:
                yield part, f"makes a text more than {MAX_GROWTH} times as long"
            yield from _faults_of_step(part, step)
    yield from _faults_of_vocabulary(content)
    yield from _faults_of_lengths(content)


def _flattened(step: Any, key: str) -> Iterator[Mapping[str, Any]]:
    """Yield the single steps of a part of the file, in their order."""
    waiting = [step]
    while waiting:
        step = waiting.pop()
        if not isinstance(step, Mapping):
            continue
        inner = step.get(key)
        if isinstance(inner, list):
            waiting += reversed(inner)
        else:
            yield step


def _growth_of(step: Mapping[str, Any]) -> int:
    """Return how many times as long a step may make a text."""
    content = step.get("content")
    if step.get("type") != "Replace" or not isinstance(content, str):
        return 1
    pattern = step.get("pattern")
    literal = pattern.get("String") if isinstance(pattern, Mapping) else None
    if isinstance(literal, str) and literal:
        return max(1, -(-len(content) // len(literal)))
    return 1 + len(content)  # a regular expression may match the empty text


def _faults_of_step(part: str, step: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    kind = step.get("type")
    if kind == "Precompiled" and not _is_charsmap(step.get("precompiled_charsmap")):
        yield f"{part}.precompiled_charsmap", "is not a map of characters"
    if kind == "TemplateProcessing":
        for name in ("single", "pair"):
            pieces = step.get(name)
            if isinstance(pieces, list) and len(pieces) > MAX_TEMPLATE:
                yield (
                    f"{part}.{name}",
                    f"has {len(pieces):,} pieces, and at most {MAX_TEMPLATE} are read",
                )
        tokens = step.get("special_tokens")
        for token in tokens.values() if isinstance(tokens, Mapping) else ():
            ids = token.get("ids") if isinstance(token, Mapping) else None
            if isinstance(ids, list) and len(ids) > MAX_TEMPLATE:
                yield f"{part}.special_tokens", f"has a token of {len(ids):,} ids"


def _is_charsmap(text: Any) -> bool:
    """Whether a text holds a map of sentencepiece.

    References:
        ``Normalizer::DecodePrecompiledCharsMap`` of sentencepiece: the size of a trie
        in bytes, as four bytes little-endian; the trie; then texts that end with 0.
    """
    if text is None or text == "":
        return True
    if not isinstance(text, str):
        return False
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return False
    size = int.from_bytes(data[:4], "little")
    return 1024 <= size <= len(data) - 4 and size % 4 == 0


def _faults_of_vocabulary(content: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    model = content.get("model")
    vocab = model.get("vocab") if isinstance(model, Mapping) else None
    ids: list[Any] = []
    if isinstance(vocab, Mapping):
        ids = [n for n in vocab.values() if type(n) is int]
    added = content.get("added_tokens")
    if isinstance(added, list):
        ids += [
            token["id"]
            for token in added
            if isinstance(token, Mapping) and type(token.get("id")) is int
        ]
    largest = max(ids, default=0)
    if largest >= MAX_TOKEN_ID:
        yield (
            "model.vocab or added_tokens",
            f"has the id {largest:,}, and ids are below {MAX_TOKEN_ID:,}",
        )


def _faults_of_lengths(content: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for part in ("padding", "truncation"):
        settings = content.get(part)
        if not isinstance(settings, Mapping):
            continue
        strategy = settings.get("strategy")
        fixed = strategy.get("Fixed") if isinstance(strategy, Mapping) else None
        named = {**settings, "strategy.Fixed": fixed}
        for name in ("strategy.Fixed", "pad_to_multiple_of", "max_length", "stride"):
            value = named.get(name)
            if isinstance(value, (int, float)) and not 0 <= value < _MAX_LENGTH:
                yield f"{part}.{name}", f"is {value}, which is not a length"
