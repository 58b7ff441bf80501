# SPDX-License-Identifier: Apache-2.0

"""Imports of libraries with thousands of modules."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """Import without the garbage collector, which finds nothing to free in modules.

    It looks at all objects again and again while they become more: a fifth of the time
    in which torch and transformers are imported.
    """
    paused_here = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if paused_here:
            gc.enable()
