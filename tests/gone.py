# SPDX-License-Identifier: Apache-2.0

"""Whether processes have ended, and waiting for what comes true."""

from __future__ import annotations

import time
from pathlib import Path


def is_gone(pid: int) -> bool:
    """Whether a process has ended; it may still be a zombie of another parent."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] in ("Z", "X")


def wait_until(condition, seconds: float = 20.0) -> bool:
    """Wait for a condition; return whether it came true."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True
