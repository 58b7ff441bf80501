# SPDX-License-Identifier: Apache-2.0

"""Numbers of bytes as text for people."""

from __future__ import annotations


def size(num_bytes: int) -> str:
    """Return a number of bytes as text; exact below a KiB."""
    number = float(num_bytes)
    for unit in ("bytes", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.2f} GiB"
