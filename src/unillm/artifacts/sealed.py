# SPDX-License-Identifier: Apache-2.0

"""JSON files that notice when a single bit of them is wrong.

A sealed file holds an object with its own digest in it. It is read back only if its
bytes are exactly those that the writer would write for what they say.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_SEAL = "seal"


class BrokenSealError(ValueError):
    """The file is not what was written."""


def _render(content: Mapping[str, Any]) -> bytes:
    def text(value: Mapping[str, Any]) -> bytes:
        return json.dumps(value, indent=1, sort_keys=True, allow_nan=False).encode()

    seal = hashlib.sha256(text(content)).hexdigest()
    return text({**content, _SEAL: seal}) + b"\n"


def read_sealed(path: Path) -> dict[str, Any]:
    """Return what a sealed file holds.

    Raises:
        BrokenSealError: It was changed since it was written, or is no sealed file.
        OSError: It cannot be read.
    """
    raw = path.read_bytes()
    try:
        content = json.loads(raw)
        del content[_SEAL]
        intact = _render(content) == raw
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise BrokenSealError(f"{path.name} is no sealed file: {error!r}") from error
    if not intact:
        raise BrokenSealError(f"{path.name} was changed since it was written")
    return content  # type: ignore[no-any-return]


def write_sealed(path: Path, content: Mapping[str, Any]) -> None:
    """Write a sealed file: whole or not at all, and on the disk when this returns.

    Raises:
        OSError: It cannot be written; what was there before is still there.
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
    """Bring the names in a folder to the disk: new, renamed and removed ones."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
