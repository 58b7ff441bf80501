# SPDX-License-Identifier: Apache-2.0

"""Whether processes have ended, and waiting for what comes true."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path


def is_gone(pid: int) -> bool:
    """Whether a process has ended; it may still be a zombie of another parent."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] in ("Z", "X")


def living(pids: Iterable[int]) -> dict[int, str]:
    """Return those that have not ended, with their command lines and states."""
    found = {}
    for pid in pids:
        folder = Path(f"/proc/{pid}")
        try:
            if is_gone(pid):
                continue
            words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            status = (folder / "status").read_text().splitlines()
        except OSError:
            continue  # it has ended meanwhile
        kept = ("State", "PPid", "Threads", "SigQ", "voluntary")
        found[pid] = f"{words}: {[each for each in status if each.startswith(kept)]}"
    return found


def wait_until(condition, seconds: float = 20.0) -> bool:
    """Wait for a condition; return whether it came true."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True
