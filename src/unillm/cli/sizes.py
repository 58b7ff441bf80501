# SPDX-License-Identifier: Apache-2.0

"""Numbers of bytes that an option takes."""

from __future__ import annotations

import re

from ..errors import ConfigError

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = re.compile(
    r"(?P<number>\d+(\.\d+)?)\s*((?P<unit>[KMGT])(i?B)?|B|bytes)?", re.IGNORECASE
)


def parse_size(text: str | None, *, option: str) -> int | None:
    """Return the bytes that *text* means: ``24GiB``, ``24G``, ``512 B``; or `None`.

    Units are powers of 1024, however they are written.

    Raises:
        ConfigError: The text is not a size, or has no unit.
    """
    if text is None:
        return None
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ConfigError(f"{option} takes a size such as 24GiB, got {text!r}.")
    if found[0] == found["number"]:
        raise ConfigError(
            f"{option} {found[0]} has no unit. Write {found[0]}GiB, or {found[0]}B for "
            "bytes."
        )
    return int(float(found["number"]) * _UNITS[(found["unit"] or "").upper()])
