# SPDX-License-Identifier: Apache-2.0

"""Records of prepared engines as JSON, in files that notice a single wrong bit.

A sealed file holds an object together with its digest. A reader accepts only the exact
bytes that the writer would write for that object.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from cattrs.preconf.json import make_converter

T = TypeVar("T")

_SEAL = "seal"

_converter = make_converter(detailed_validation=False)
_converter.register_unstructure_hook(Path, str)
_converter.register_structure_hook(Path, lambda value, _: Path(value))


def to_json(record: Any) -> Any:
    """Return an attrs value as JSON values."""
    return _converter.unstructure(record)


def from_json(content: Any, kind: type[T]) -> T:
    """Return the attrs value that `to_json` turned into *content*.

    Keys that *kind* has no field for are ignored.

    Raises:
        ValueError: A field is missing or has an impossible value.
    """
    try:
        return _converter.structure(content, kind)
    except Exception as error:  # cattrs passes on what the class and its types raise
        raise ValueError(f"not a record of this version: {error!r}") from error


class BrokenSealError(ValueError):
    """A sealed file has other bytes than its writer wrote."""


def _render(content: Mapping[str, Any]) -> bytes:
    def text(value: Mapping[str, Any]) -> bytes:
        return json.dumps(value, indent=1, sort_keys=True, allow_nan=False).encode()

    seal = hashlib.sha256(text(content)).hexdigest()
    return text({**content, _SEAL: seal}) + b"\n"


def read_sealed(path: Path) -> dict[str, Any]:
    """Return the object of a sealed file.

    Raises:
        BrokenSealError: The file was changed after it was written, or never sealed.
        OSError: The file cannot be read.
    """
    raw = path.read_bytes()
    try:
        content = json.loads(raw)
        del content[_SEAL]
        intact = _render(content) == raw
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise BrokenSealError(f"{path.name} is not a sealed file: {error!r}") from error
    if not intact:
        raise BrokenSealError(f"{path.name} was changed since it was written")
    return content  # type: ignore[no-any-return]


def write_sealed(path: Path, content: Mapping[str, Any]) -> None:
    """Write a sealed file completely, and sync it to the disk.

    Raises:
        OSError: The file cannot be written; its old content is still there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        with temporary.open("wb") as stream:
            stream.write(_render(content))
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Sync the names in a folder to the disk: new, renamed and removed ones."""
    if os.name == "nt":
        return  # Windows opens no folders
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
