# SPDX-License-Identifier: Apache-2.0

"""Equal lines among any number, found in bounded memory.

Digests of the lines go to files by their first byte. Each of these files is sorted
alone: of ten million lines it has forty thousand.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_PARTS = 256
_DIGEST_BYTES = 16
BUFFER_BYTES = 16384
"""Bytes of each part that stay in memory."""

_ENTRY = struct.Struct(f"{_DIGEST_BYTES}sQ")


class EqualLines:
    """Finds lines with equal keys.

    Args:
        folder: Folder for temporary files, which `close` deletes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._buffers = [bytearray() for _ in range(_PARTS)]
        self._files: dict[int, IO[bytes]] = {}

    def add(self, index: int, key: bytes) -> None:
        """Take the key of a line; lines come in order."""
        digest = hashlib.blake2b(key, digest_size=_DIGEST_BYTES).digest()
        part = digest[0]
        buffer = self._buffers[part]
        buffer += _ENTRY.pack(digest, index)
        if len(buffer) >= BUFFER_BYTES:
            self._spill(part)

    def _spill(self, part: int) -> None:
        if part not in self._files:
            self._files[part] = (self._folder / f"digests-{part}").open("w+b")
        self._files[part].write(self._buffers[part])
        self._buffers[part].clear()

    def pairs(self) -> Iterator[tuple[int, int]]:
        """Yield each line that equals an earlier one, after the first such line.

        The order is by key, and by line among equal ones.
        """
        for part, buffer in enumerate(self._buffers):
            content = bytes(buffer)
            if part in self._files:
                self._files[part].seek(0)
                content = self._files[part].read() + content
            leader, leading = b"", -1
            for digest, index in sorted(_ENTRY.iter_unpack(content)):
                if digest == leader:
                    yield leading, index
                else:
                    leader, leading = digest, index

    def close(self) -> None:
        """Delete the files."""
        for part, file in self._files.items():
            file.close()
            (self._folder / f"digests-{part}").unlink(missing_ok=True)
        self._files.clear()
