# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, resource, sys
from unillm_ctranslate2._allocator import keep_freed_memory

library = ctypes.CDLL(None)
library.malloc.argtypes, library.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
library.free.argtypes = [ctypes.c_void_p]

def use(size):
    block = library.malloc(size)
    ctypes.memset(block, 1, size)
    library.free(block)

if "keep" in sys.argv:
    keep_freed_memory()
use(16 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use(15 << 20)
use(8 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's own way")
def test_what_was_freed_is_used_again_without_asking_the_system():
    assert page_faults("keep") < 100 < page_faults()


def page_faults(*arguments: str) -> int:
    plain = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        env=plain,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)
