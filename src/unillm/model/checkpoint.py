# SPDX-License-Identifier: Apache-2.0

"""What a model directory declares, and whether it is safe and whole.

Everything is read as data: JSON, and the headers of safetensors files. No weights are
loaded, and no code of the checkpoint runs.
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
"""Keys of ``auto_map`` that a language model is loaded through; others are a
tokenizer's or a processor's."""

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
"""Bytes of one number, by the name that safetensors gives its type."""


# ---------------------------------------------------------------------- configuration


def read_config(path: Path) -> Mapping[str, Any]:
    """Return ``config.json`` of a model directory.

    Raises:
        ModelNotFoundError: There is no such directory.
        ModelLoadError: The file is missing, or is not a JSON object.
    """
    if not path.is_dir():
        raise ModelNotFoundError(f"There is no model directory {path}.")
    file = path / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelLoadError(
            f"{path} has no config.json, so it is not a transformers model."
        ) from None
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{file} cannot be read: {error}.") from error
    if not isinstance(config, dict):
        raise ModelLoadError(f"{file} holds a {type(config).__name__}, not an object.")
    return config


def check_code(config: Mapping[str, Any], *, name: object) -> None:
    """Raise `UnsafeModelError` if the model would be made by code of the checkpoint."""
    code = config.get("auto_map") or {}
    named = [f"{key}: {code[key]}" for key in _MODEL_CODE if key in code]
    if named:
        raise UnsafeModelError(
            f"{name} brings code of its own ({'; '.join(named)} in auto_map of "
            "config.json). Read that code; if you trust it, pass "
            "trust_remote_code=True."
        )


def load_config(path: Path, *, trust_remote_code: bool = False) -> Any:
    """Return the transformers configuration of a directory.

    Raises:
        ModelLoadError: It cannot be made of what the file says.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(
            path,
            trust_remote_code=trust_remote_code,
            local_files_only=True,
        )
    except Exception as error:  # code of any checkpoint may run here, if trusted
        raise ModelLoadError(
            f"transformers cannot read the configuration of {path}: {error}"
        ) from error


# ---------------------------------------------------------------------------- weights


def check_weights(path: Path) -> None:
    """Check that a directory holds safetensors files, whole ones, and all of them.

    Raises:
        UnsafeModelError: There are only pickled weights.
        ModelLoadError: There are none, or a file is missing or broken.
    """
    if not any(path.glob("*.safetensors")):
        _refuse_without_safetensors(path)
    for _ in stored_tensors(path):
        pass  # reading the headers is the check


def _weight_files(path: Path) -> list[Path]:
    """Return the files that transformers loads: what it finds first.

    Others may stand beside them, the same weights under other names among them (Mistral
    ships a ``consolidated.safetensors``).
    """
    whole = path / "model.safetensors"
    if whole.is_file():
        return [whole]
    index = path / "model.safetensors.index.json"
    if not index.is_file():
        return sorted(path.glob("*.safetensors"))
    try:
        names = set(
            json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        )
        files = [path / name for name in sorted(names)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelLoadError(f"{index} cannot be read: {error!r}.") from error
    if missing := [file.name for file in files if not file.is_file()]:
        raise ModelLoadError(
            f"{path} lacks {', '.join(missing)}, which {index.name} names. Copy or "
            "download the model again."
        )
    return files


def _refuse_without_safetensors(path: Path) -> None:
    refuse_pickles(path)
    raise ModelLoadError(f"{path} has no weights: no *.safetensors file.")


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
        """Whether its numbers take on the dtype that the model is loaded in."""
        return self.dtype in ("F64", "F32", "F16", "BF16")

    def bytes_as(self, floating_bytes: int) -> int:
        """Return its size once floating-point numbers take *floating_bytes* each."""
        kept = ITEM_BYTES.get(self.dtype, 1)
        return math.prod(self.shape) * (floating_bytes if self.is_floating else kept)


def stored_tensors(path: Path) -> Iterable[StoredTensor]:
    """Yield what the weights of a model directory hold.

    Raises:
        ModelLoadError: A file is missing, is cut off or is no safetensors file.
    """
    for file in _weight_files(path):
        yield from read_tensors(file)


def read_tensors(file: Path) -> Iterable[StoredTensor]:
    """Yield what one safetensors file holds.

    Raises:
        ModelLoadError: It is missing, is cut off or is no safetensors file.
    """
    for name, entry in _read_header(file).items():
        if name != "__metadata__":
            yield StoredTensor(name, entry["dtype"], tuple(entry["shape"]))


def _read_header(file: Path) -> Mapping[str, Any]:
    """Read a header, and check that the file is as long as it says.

    References:
        Format of safetensors: 8 bytes little-endian length, JSON, then the data.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            # No more than there is: the length itself may be garbage.
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
