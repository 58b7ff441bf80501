# SPDX-License-Identifier: Apache-2.0

"""The files of a model directory, read as data and checked: no weights, no code.

Every JSON file of a model is read through `read_json`; weights are known by the headers
of their safetensors files.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs

from ..errors import ModelLoadError, ModelNotFoundError, UnsafeModelError

_MODEL_CODE = ("AutoConfig", "AutoModel", "AutoModelForCausalLM")
"""Keys of ``auto_map`` that name the code of a language model. Other keys name the code
of a tokenizer or a processor."""

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")

ITEM_BYTES: Mapping[str, int] = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
"""Bytes of one number, by safetensors' name of its type."""


# ------------------------------------------------------------------------- JSON files


def read_json(directory: Path, name: str) -> dict[str, Any] | None:
    """Return the object in a JSON file of a model; `None` if there is no such file.

    Raises:
        ModelLoadError: The file does not hold a JSON object.
    """
    path = directory / name
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise ModelLoadError(
            f"{path} cannot be read as JSON: {error}. Copy or download it again."
        ) from error
    if not isinstance(content, dict):
        raise ModelLoadError(
            f"{path} must hold a JSON object, but holds a "
            f"{type(content).__name__}. Copy or download it again."
        )
    return content


def read_config(path: Path) -> Mapping[str, Any]:
    """Return ``config.json`` of a model directory.

    Raises:
        ModelNotFoundError: The directory does not exist.
        ModelLoadError: The file is missing, or does not hold a JSON object.
    """
    if not path.is_dir():
        raise ModelNotFoundError(f"There is no model directory {path}.")
    config = read_json(path, "config.json")
    if config is None:
        raise ModelLoadError(
            f"{path} has no config.json, so it is not a transformers model."
        )
    return config


def check_code(config: Mapping[str, Any], *, name: object) -> None:
    """Raise `UnsafeModelError` if code of the checkpoint defines the model."""
    code = config.get("auto_map") or {}
    named = [f"{key}: {code[key]}" for key in _MODEL_CODE if key in code]
    if named:
        raise UnsafeModelError(
            f"{name} brings code of its own ({'; '.join(named)} in auto_map of "
            "config.json). Read that code; if you trust it, pass "
            "trust_remote_code=True."
        )


def load_config(path: Path, *, trust_remote_code: bool = False) -> Any:
    """Return the transformers configuration of a model directory.

    Raises:
        ModelLoadError: transformers refuses ``config.json``.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(
            path, trust_remote_code=trust_remote_code, local_files_only=True
        )
    except Exception as error:  # trusted code of a checkpoint may raise anything
        raise ModelLoadError(
            f"transformers cannot read the configuration of {path}: {error}"
        ) from error


# ---------------------------------------------------------------------------- weights


def check_weights(path: Path) -> None:
    """Check that a directory holds all its weights, in whole safetensors files.

    Raises:
        UnsafeModelError: The only weights are pickles.
        ModelLoadError: There are no weights, or a file is missing or broken.
    """
    if not any(path.glob("*.safetensors")):
        refuse_pickles(path)
        raise ModelLoadError(f"{path} has no weights: no *.safetensors file.")
    for _ in stored_tensors(path):
        pass  # reading the headers is the check


def refuse_pickles(path: Path) -> None:
    """Raise `UnsafeModelError` if the only weights of a model directory are pickles."""
    pickles = sorted(file.name for kind in _PICKLES for file in path.glob(kind))
    if not pickles or any(path.glob("*.safetensors")):
        return
    raise UnsafeModelError(
        f"{path} has its weights in {', '.join(pickles)} only: pickles, which run code "
        "when they are loaded. If you trust where they come from, convert them once, "
        "with transformers: AutoModelForCausalLM.from_pretrained(old)"
        ".save_pretrained(new) writes safetensors."
    )


@attrs.frozen
class StoredTensor:
    """A tensor as the header of a safetensors file declares it."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def is_floating(self) -> bool:
        """Whether loading converts its numbers to the dtype of the model."""
        return self.dtype in ("F64", "F32", "F16", "BF16")

    def bytes_as(self, floating_bytes: int) -> int:
        """Return its size if each floating-point number takes *floating_bytes*."""
        kept = ITEM_BYTES.get(self.dtype, 1)
        return math.prod(self.shape) * (floating_bytes if self.is_floating else kept)


def stored_tensors(path: Path) -> Iterable[StoredTensor]:
    """Yield the tensors that transformers loads from a model directory.

    Raises:
        ModelLoadError: A file is missing, cut off or not a safetensors file.
    """
    for file in _weight_files(path):
        yield from read_tensors(file)


def read_tensors(file: Path) -> Iterable[StoredTensor]:
    """Yield the tensors of one safetensors file.

    Raises:
        ModelLoadError: The file is missing, cut off or not a safetensors file.
    """
    for name, entry in _read_header(file).items():
        if name != "__metadata__":
            yield StoredTensor(name, entry["dtype"], tuple(entry["shape"]))


def _weight_files(path: Path) -> list[Path]:
    """Return the files that transformers loads, by its order of preference.

    The same weights may stand beside them under other names: Mistral ships a
    ``consolidated.safetensors``.
    """
    whole = path / "model.safetensors"
    if whole.is_file():
        return [whole]
    index_name = "model.safetensors.index.json"
    index = read_json(path, index_name)
    if index is None:
        return sorted(path.glob("*.safetensors"))
    try:
        files = [path / name for name in sorted(set(index["weight_map"].values()))]
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelLoadError(
            f"{path / index_name} cannot be read: {error!r}."
        ) from error
    if missing := [file.name for file in files if not file.is_file()]:
        raise ModelLoadError(
            f"{path} lacks {', '.join(missing)}, which {index_name} names. Copy or "
            "download the model again."
        )
    return files


def _read_header(file: Path) -> Mapping[str, Any]:
    """Return the header of a safetensors file that is as long as its header declares.

    References:
        Format of safetensors: 8 bytes little-endian length, JSON, then the data.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            # Never more than the file holds: the length itself may be garbage.
            header: dict[str, Any] = json.loads(stream.read(min(length, size)))
        ends = [e["data_offsets"][1] for n, e in header.items() if n != "__metadata__"]
        declared = 8 + length + max(ends, default=0)
    except (OSError, ValueError, struct.error, LookupError, TypeError) as error:
        raise ModelLoadError(f"{file} has no safetensors header: {error}.") from error
    if declared != size:
        raise ModelLoadError(
            f"{file} is not whole: it declares {declared:,} bytes and has {size:,}. "
            "Copy or download it again."
        )
    return header
