# SPDX-License-Identifier: Apache-2.0

"""How the C library's allocator treats what CTranslate2 frees.

CTranslate2 keeps the keys and values of a run in tensors that it makes anew, a token
longer, at each step. glibc gives blocks of that size back to the system when they are
freed, and then each step has to have them mapped and cleared again: with eight rows of
400 tokens of a small model that took four times as long as the step itself.
"""

from __future__ import annotations

import ctypes
import sys

_LARGEST = (32 << 20) - (64 << 10)
"""Of the blocks that glibc learns from; up to 32 MiB with its own header."""


def keep_freed_memory() -> None:
    """Let glibc keep freed blocks of up to 32 MiB for the next one of that size.

    It learns that by itself from the first such block that is freed, unless the
    environment says otherwise (``MALLOC_MMAP_THRESHOLD_``); here it is shown one, of
    which no page is touched. Other C libraries take no notice.
    """
    if not sys.platform.startswith("linux"):
        return
    library = ctypes.CDLL(None)
    library.malloc.argtypes, library.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    library.free.argtypes, library.free.restype = [ctypes.c_void_p], None
    library.free(library.malloc(_LARGEST))
