# SPDX-License-Identifier: Apache-2.0

"""Files of a job: found by name or pattern, and read through gzip or zstd.

The first bytes of a file say how it is compressed, not its name.
"""

from __future__ import annotations

import glob
import gzip
import io
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from ..distributions import install
from ..errors import BatchInputError, ConfigError

STDIN = "-"

GZIP, ZSTD = ".gz", ".zst"
COMPRESSIONS = (GZIP, ZSTD)
"""Suffixes of compressed files."""

MAX_LINE_BYTES = 256 * 2**20
"""Longest line. A file without newlines would not fit in memory otherwise."""

_MAGIC = {b"\x1f\x8b": GZIP, b"\x28\xb5\x2f\xfd": ZSTD}
_BOM = b"\xef\xbb\xbf"


def find_files(patterns: Sequence[str]) -> list[Path]:
    """Return the files of paths and patterns, in the order of a pattern's names.

    Raises:
        BatchInputError: A path does not exist, or a pattern matches nothing.
    """
    found: list[Path] = []
    for pattern in patterns:
        path = Path(os.path.expanduser(pattern))
        if path.is_file():
            found.append(path)
            continue
        names = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 - absolute too
        files = [Path(name) for name in names if Path(name).is_file()]
        if not files:
            raise BatchInputError(
                f"No file matches {pattern!r}. Give a path, a pattern such as "
                "'data/*.jsonl', or - for standard input."
            )
        found += files
    return found


def suffix_of(path: Path) -> str:
    """Return the suffix of a file's content, in lower case: ``.csv`` of x.CSV.gz."""
    suffixes = [each.lower() for each in path.suffixes]
    while suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def copy_input(stream: BinaryIO, target: Path) -> None:
    """Copy standard input to a file, which a job can read more than once."""
    with target.open("wb") as file:
        shutil.copyfileobj(stream, file, 2**20)


def open_for_reading(path: Path) -> BinaryIO:
    """Open a file; what it compresses is read as it was.

    A pipe is read as it is: its first bytes cannot be read twice.

    Raises:
        BatchInputError: The file cannot be read.
    """
    try:
        if not path.is_file():
            return path.open("rb", buffering=2**20)
        with path.open("rb") as file:
            magic = file.read(4)
        if magic[:2] in _MAGIC:
            return cast("BinaryIO", gzip.open(path, "rb"))
        if magic in _MAGIC:
            frames = _zstandard().ZstdDecompressor()
            stream = frames.stream_reader(path.open("rb"), read_across_frames=True)
            return cast("BinaryIO", io.BufferedReader(stream, 2**20))
        return path.open("rb", buffering=2**20)
    except OSError as error:
        raise unreadable(path, error) from error


def open_for_writing(path: Path, name: str) -> IO[bytes]:
    """Open a file for writing.

    Args:
        path: The file.
        name: The name that it will have, whose suffix says how it is compressed.
    """
    if name.endswith(GZIP):
        return cast("IO[bytes]", gzip.open(path, "wb", compresslevel=6))
    if name.endswith(ZSTD):
        return cast("IO[bytes]", _zstandard().open(path, "wb"))
    return path.open("wb", buffering=2**20)


def _zstandard() -> Any:
    try:
        import zstandard
    except ModuleNotFoundError as error:
        raise ConfigError(
            "Files compressed with zstd need the package zstandard. Install it: "
            f"{install('batch')}"
        ) from error
    return zstandard


def unreadable(path: Path, error: Exception) -> BatchInputError:
    """Return the error of an input that cannot be read."""
    reason = getattr(error, "strerror", None) or error
    return BatchInputError(f"{path} cannot be read: {reason}.")


def read_lines(path: Path) -> Iterator[tuple[int, bytes | None]]:
    """Yield the lines of a file as `lines_of` does.

    Raises:
        BatchInputError: The file cannot be read or decompressed.
    """
    try:
        with open_for_reading(path) as stream:
            yield from lines_of(stream)
    except BatchInputError:
        raise
    except (OSError, EOFError, ValueError) as error:
        raise unreadable(path, error) from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] == "zstandard":
            raise unreadable(path, error) from error
        raise


def lines_of(stream: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Yield the lines of a stream that are not blank, each with its number from 1.

    A line has lost its end, and the first one a byte order mark. A line that is too
    long is `None`.
    """
    number = 0
    while line := stream.readline(MAX_LINE_BYTES):
        number += 1
        if number == 1:
            line = line.removeprefix(_BOM)
        if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = stream.readline(MAX_LINE_BYTES)
            yield number, None
        elif line.strip():
            yield number, line.rstrip(b"\r\n")
