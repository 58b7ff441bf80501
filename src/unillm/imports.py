# SPDX-License-Identifier: Apache-2.0

"""Imports of libraries with thousands of modules."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """Import without the garbage collector, which finds nothing to free in modules.

    It looks at all objects again and again while they become more: a sixth of the time
    in which torch and transformers are imported. Afterwards they count as old objects,
    so that the next collections do not look at each of them either.
    """
    paused_here = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if paused_here:
            if not gc.get_freeze_count():  # else the program has frozen objects
                gc.freeze()
                gc.unfreeze()  # into the oldest generation
            gc.enable()
