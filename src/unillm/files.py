# SPDX-License-Identifier: Apache-2.0

"""Files of a checkpoint, read within limits.

Files of a model, an adapter or a prepared engine are read here, or checked here before
a library reads them. Only regular files are opened, so no caller waits for a pipe. JSON
is bounded in size, depth and number of values, because a parser needs memory for each
value and libraries recurse over each level.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from .errors import ModelLoadError

MIB = 2**20

MAX_TEXT_BYTES = 64 * MIB
"""Largest JSON, text or tokenizer file: the largest known, Gemma's, has 35 MB."""

MAX_DEPTH = 64
"""Levels of nested JSON; configurations have about five."""

MAX_VALUES = 3_000_000
"""Values of a JSON file, and of its objects and lists: a vocabulary of 262,144 tokens
with its merges takes half as many. A value takes up to 200 bytes of memory."""

_NESTED = frozenset((dict, list))

_AGAIN = "Copy or download it again."


def is_there(path: Path) -> bool:
    """Whether something of that name exists, whatever it is."""
    return os.path.lexists(path)


def check_file(path: Path, *, max_bytes: int | None = MAX_TEXT_BYTES) -> int:
    """Return the size of a file that may be opened.

    Args:
        path: Followed if it is a symbolic link: the cache of the hub consists of them.
        max_bytes: Largest size; `None` for any.

    Raises:
        FileNotFoundError: There is none.
        ModelLoadError: It is not a regular file, cannot be reached or is too large.
    """
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise ModelLoadError(
                f"{path} is a symbolic link to a file that does not exist. {_AGAIN}"
            ) from None
        raise
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{path} cannot be read: {error}.") from error
    if not stat.S_ISREG(found.st_mode):
        raise ModelLoadError(
            f"{path} is {_kind(found.st_mode)}, and must be a regular file. {_AGAIN}"
        )
    if max_bytes is not None and found.st_size > max_bytes:
        raise ModelLoadError(
            f"{path} has {found.st_size:,} bytes, and a file of its kind has at most "
            f"{max_bytes:,}. {_AGAIN}"
        )
    return found.st_size


def read_bytes(path: Path, *, max_bytes: int = MAX_TEXT_BYTES) -> bytes:
    """Return the contents of a regular file of limited size.

    Raises:
        FileNotFoundError: There is none.
        ModelLoadError: `check_file` refuses it, or it cannot be read.
    """
    size = check_file(path, max_bytes=max_bytes)
    try:
        # Without waiting, should a pipe have taken its place.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "rb") as stream:
            return stream.read(size)
    except OSError as error:
        raise ModelLoadError(f"{path} cannot be read: {error}.") from error


def read_text(path: Path, *, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """Return the text of a file in UTF-8, within the limits of `read_bytes`."""
    try:
        return read_bytes(path, max_bytes=max_bytes).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ModelLoadError(
            f"{path} is not text in UTF-8: {error}. {_AGAIN}"
        ) from error


def read_json(directory: Path, name: str) -> dict[str, Any] | None:
    """Return the object in a JSON file of a directory; `None` if there is no such file.

    Raises:
        ModelLoadError: The file does not hold a JSON object, or exceeds a limit.
    """
    path = directory / name
    try:
        raw = read_bytes(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    content = parse_json(raw, path)
    if not isinstance(content, dict):
        raise ModelLoadError(
            f"{path} must hold a JSON object, but holds a {type(content).__name__}. "
            f"{_AGAIN}"
        )
    return content


def parse_json(raw: bytes, path: Path) -> Any:
    """Return the value of a JSON text.

    Args:
        raw: The text.
        path: The file that holds it, for messages.

    Raises:
        ModelLoadError: It is not JSON, or exceeds a limit.
    """
    # Upper bounds: characters inside of texts count too.
    values = raw.count(b",") + raw.count(b"[") + raw.count(b"{")
    if values > MAX_VALUES:
        raise ModelLoadError(
            f"{path} has about {values:,} values, and a file of its kind has at most "
            f"{MAX_VALUES:,}. {_AGAIN}"
        )
    try:
        content = json.loads(raw)
    except RecursionError:
        raise _too_deep(path) from None
    except ValueError as error:
        raise ModelLoadError(
            f"{path} cannot be read as JSON: {error}. {_AGAIN}"
        ) from error
    if depth_of(content) > MAX_DEPTH:
        raise _too_deep(path)
    return content


def depth_of(content: Any) -> int:
    """Return the levels of objects and lists in a value of JSON."""
    depth = 0
    level = [content] if type(content) in _NESTED else []
    while level:
        depth += 1
        inner: list[Any] = []
        for each in level:
            values = each.values() if type(each) is dict else each
            # A test in C: the merges of a vocabulary are half a million lists.
            if not _NESTED.isdisjoint(map(type, values)):
                inner += [value for value in values if type(value) in _NESTED]
        level = inner
    return depth


def _too_deep(path: Path) -> ModelLoadError:
    return ModelLoadError(
        f"{path} is nested more than {MAX_DEPTH} levels deep, and a file of its kind "
        f"has about five. {_AGAIN}"
    )


def _kind(mode: int) -> str:
    kinds = (
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    )
    return next((name for matches, name in kinds if matches(mode)), "no file")
