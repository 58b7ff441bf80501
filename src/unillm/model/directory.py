# SPDX-License-Identifier: Apache-2.0

"""A model directory, checked once before any library reads it.

Each backend hands the directory to a library of its own, which reads these files again:
transformers, vLLM, CTranslate2's converter, TensorRT-LLM.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import ModelLoadError
from ..files import check_file, read_json
from .checkpoint import StoredTensor, find_config, stored_tensors
from .declared import LAYER_NAMES, text_part

_JSON_FILES = (
    "adapter_config.json",
    "added_tokens.json",
    "chat_template.json",
    "generation_config.json",
    "hf_quant_config.json",
    "model.safetensors.index.json",
    "preprocessor_config.json",
    "processor_config.json",
    "quantize_config.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
)
"""Further files that some library parses; ``text.loading`` reads ``tokenizer.json``."""

_TEXT_FILES = ("*.jinja", "*.model", "*.tiktoken", "merges.txt", "vocab.*", "tek*.json")
_MAX_LAYER_DIGITS = 6


def check_directory(path: Path) -> None:
    """Check all files of a model directory that libraries read.

    Args:
        path: A directory: of a model, of a built engine, or of a tokenizer alone.

    Raises:
        ModelLoadError: A file is not a regular one, is too large, is nested too deep,
            is not what its name says or contradicts the others.
    """
    config = check_text_files(path)
    weights = list(path.glob("*.safetensors"))
    for file in (*weights, *path.glob("*.engine")):
        check_file(file, max_bytes=None)
    if weights:
        _check_layers(path / "config.json", config or {}, stored_tensors(path))


def check_text_files(path: Path) -> Mapping[str, Any] | None:
    """Check the files of a directory that are not weights; return ``config.json``.

    Raises:
        ModelLoadError: As for `check_directory`.
    """
    for name in _JSON_FILES:
        read_json(path, name)
    for pattern in _TEXT_FILES:
        for file in path.glob(pattern):
            check_file(file)
    return find_config(path)


def _check_layers(
    file: Path, config: Mapping[str, Any], tensors: Iterable[StoredTensor]
) -> None:
    """Refuse more layers than the names of the tensors count.

    A library would make each of them before it looks for its weights.
    """
    text = text_part(config)
    field = next((name for name in LAYER_NAMES if text.get(name)), None)
    numbers = {
        int(part)
        for tensor in tensors
        for part in tensor.name.split(".")
        if part.isdecimal() and len(part) <= _MAX_LAYER_DIGITS
    }
    if field is None or not numbers:
        return
    layers = max(numbers) + 1
    if isinstance(text[field], int) and text[field] > layers:
        raise ModelLoadError(
            f"{file}: {field} is {text[field]:,}, and the weights beside it have "
            f"{layers:,} layers. Use the config.json that belongs to these weights, or "
            "download the model again."
        )
