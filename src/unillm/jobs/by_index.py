# SPDX-License-Identifier: Apache-2.0

"""`ByIndex`: one small record for each line of the input, in a file.

In memory, ten million of them would take hundreds of megabytes.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

_CHUNK = 4096


class ByIndex:
    """Records of one format by the number of their line. Missing ones are zeros.

    Args:
        path: The file, which is made anew; `close` deletes it.
        layout: Format of a record.
        size: Number of lines.
    """

    def __init__(self, path: Path, layout: str, size: int) -> None:
        self._path = path
        self._struct = struct.Struct(layout)
        self._size = size
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        os.ftruncate(self._file, size * self._struct.size)

    def put(self, index: int, *values: int) -> None:
        """Write a record."""
        os.pwrite(self._file, self._struct.pack(*values), index * self._struct.size)

    def get(self, index: int) -> tuple[int, ...]:
        """Return a record."""
        size = self._struct.size
        return self._struct.unpack(os.pread(self._file, size, index * size))

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        for start in range(0, self._size, _CHUNK):
            count = min(_CHUNK, self._size - start)
            size = self._struct.size
            chunk = os.pread(self._file, count * size, start * size)
            yield from self._struct.iter_unpack(chunk)

    def close(self) -> None:
        """Delete the file."""
        os.close(self._file)
        self._path.unlink(missing_ok=True)
