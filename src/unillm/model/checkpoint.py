# SPDX-License-Identifier: Apache-2.0

"""A model directory's configuration and weights, read as data and checked.

No code of a checkpoint runs here, and weights are known by the headers of their
safetensors files alone.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeGuard

import attrs

from ..errors import ModelLoadError, ModelNotFoundError, UnsafeModelError
from ..files import check_file, is_there, parse_json, read_json
from .adapters import is_adapter_file
from .declared import check_declared, quantization_of

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
    "F8_E8M0": 1,
    "I64": 8,
    "U64": 8,
    "I32": 4,
    "U32": 4,
    "I16": 2,
    "U16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
"""Bytes of one number, by safetensors' name of its type."""


# --------------------------------------------------------------------- configuration


def read_config(path: Path) -> Mapping[str, Any]:
    """Return ``config.json`` of a model directory.

    Raises:
        ModelNotFoundError: The directory does not exist.
        ModelLoadError: The file is missing or broken; or a value has the wrong type or
            is out of bounds.
    """
    if not path.is_dir():
        raise ModelNotFoundError(f"There is no model directory {path}.")
    config = find_config(path)
    if config is None:
        raise ModelLoadError(
            f"{path} has no config.json, so it is not a transformers model."
        )
    return config


def find_config(path: Path) -> Mapping[str, Any] | None:
    """Return ``config.json`` of a directory, checked; `None` if there is no such file.

    Raises:
        ModelLoadError: The file is broken; or a value has the wrong type or is out of
            bounds.
    """
    config = read_json(path, "config.json")
    if config is not None:
        check_declared(config, file=path / "config.json")
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
        ModelError: There is no ``config.json``, or transformers refuses it.
    """
    declared = read_config(path)
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(
            path, trust_remote_code=trust_remote_code, local_files_only=True
        )
    except Exception as error:  # trusted code of a checkpoint may raise anything
        raise ModelLoadError(
            f"transformers cannot read {path / 'config.json'}: {error}"
        ) from error
    if not hasattr(config.get_text_config(decoder=True), "to_dict"):
        raise ModelLoadError(
            f"{path / 'config.json'}: text_config is not one that a model of type "
            f"{config.model_type!r} has. Correct the file, or download it again."
        )
    quantization = quantization_of(declared)
    if quantization and not getattr(config, "quantization_config", None):
        # transformers reads the weights by this attribute, and knows no older key.
        config.quantization_config = dict(quantization)
    return config


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
        yield StoredTensor(name, entry["dtype"], tuple(entry["shape"]))


def _weight_files(path: Path) -> list[Path]:
    """Return the files that transformers loads, by its order of preference.

    The same weights may stand beside them under other names: Mistral ships a
    ``consolidated.safetensors``.
    """
    whole = path / "model.safetensors"
    if is_there(whole):
        return [whole]
    index_name = "model.safetensors.index.json"
    index = read_json(path, index_name)
    if index is None:
        files = path.glob("*.safetensors")
        return sorted(file for file in files if not is_adapter_file(file))
    named = index.get("weight_map")
    if not isinstance(named, dict) or not all(map(_is_file_name, named.values())):
        raise ModelLoadError(
            f"{path / index_name}: weight_map must be an object of file names, one for "
            "each tensor. Copy or download it again."
        )
    names = sorted(set(named.values()))
    if missing := [name for name in names if not is_there(path / name)]:
        raise ModelLoadError(
            f"{path} lacks {', '.join(missing)}, which {index_name} names. Copy or "
            "download the model again."
        )
    return [path / name for name in names]


def _is_file_name(name: object) -> bool:
    """Whether an index may name this file: one beside it, which is not a pickle."""
    return (
        isinstance(name, str)
        and Path(name).name == name
        and name.endswith(".safetensors")
    )


# ---------------------------------------------------------------- safetensors headers

_MAX_HEADER_BYTES = 100_000_000
"""Limit of the safetensors library."""


def _read_header(file: Path) -> Mapping[str, Any]:
    """Return the tensors in the header of a whole safetensors file.

    References:
        Format of safetensors: 8 bytes little-endian length, JSON, then the data.
    """
    try:
        size = check_file(file, max_bytes=None)
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > min(size, _MAX_HEADER_BYTES):
                raise _no_header(file, f"it declares a header of {length:,} bytes")
            header = parse_json(stream.read(length), file)
    except (OSError, struct.error) as error:
        raise _no_header(file, str(error)) from error
    if not isinstance(header, dict):
        raise _no_header(file, f"it is a {type(header).__name__}, not an object")
    if not _are_texts(header.pop("__metadata__", {})):
        raise _no_header(file, "__metadata__ is not an object of texts")
    for name, entry in header.items():
        if fault := _fault_of(entry):
            raise _no_header(file, f"the tensor {name[:80]!r} {fault}")
    end = 0
    for name, entry in sorted(header.items(), key=lambda each: each[1]["data_offsets"]):
        if entry["data_offsets"][0] != end:
            raise _no_header(
                file, f"the tensor {name[:80]!r} does not begin where another ends"
            )
        end = entry["data_offsets"][1]
    declared = 8 + length + end
    if declared != size:
        raise ModelLoadError(
            f"{file} is not whole: it declares {declared:,} bytes and has {size:,}. "
            "Copy or download it again."
        )
    return header


def _no_header(file: Path, why: str) -> ModelLoadError:
    return ModelLoadError(
        f"{file} has no safetensors header: {why}. Copy or download it again."
    )


def _fault_of(entry: Any) -> str | None:
    """Return what is wrong with the entry of a tensor in a header, or `None`."""
    if not isinstance(entry, dict):
        return "is not an object"
    dtype, shape = entry.get("dtype"), entry.get("shape")
    offsets = entry.get("data_offsets")
    if not isinstance(dtype, str):
        return f"has no dtype, but {dtype!r}"
    if not _are_numbers(shape):
        return "has no shape, a list of numbers ≥ 0"
    if not _are_numbers(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        return "has no data_offsets, a list of two numbers"
    item_bytes = ITEM_BYTES.get(dtype)
    needed = None if item_bytes is None else math.prod(shape) * item_bytes
    if needed not in (None, offsets[1] - offsets[0]):
        return (
            f"has {offsets[1] - offsets[0]:,} bytes, and {dtype} of shape {shape} "
            f"needs {needed:,}"
        )
    return None


def _are_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(n, str) for n in value.values())


def _are_numbers(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(
        type(number) is int and number >= 0 for number in value
    )
