# SPDX-License-Identifier: Apache-2.0

"""glibc keeps the memory that steps free, unless the environment configures it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, resource
from unillm.runtime.allocator import BLOCK_BYTES, keep_freed

BLOCKS = 3  # together more than glibc keeps by itself: twice the largest freed block
SIZE = BLOCK_BYTES - 4096

library = ctypes.CDLL(None)
library.malloc.argtypes, library.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
library.free.argtypes, library.free.restype = [ctypes.c_void_p], None

def step():
    blocks = [library.malloc(SIZE) for _ in range(BLOCKS)]
    for block in blocks:
        ctypes.memset(block, 1, SIZE)
    for block in blocks:
        library.free(block)

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

keep_freed()
for _ in range(3):
    step()
before = faults()
for _ in range(10):
    step()
pages = 10 * BLOCKS * BLOCK_BYTES // resource.getpagesize()
print("kept" if faults() - before < pages / 10 else "given back")
"""


@pytest.mark.skipif(
    "glibc" not in str(os.confstr("CS_GNU_LIBC_VERSION")), reason="glibc's"
)
@pytest.mark.parametrize(
    ("variables", "expected"),
    [({}, "kept"), ({"MALLOC_TRIM_THRESHOLD_": "131072"}, "given back")],
    ids=["by default", "where the user says otherwise"],
)
def test_a_step_finds_the_pages_of_the_last_one(variables, expected):
    ours = {n: v for n, v in os.environ.items() if not n.startswith("MALLOC_")}

    run = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**ours, **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert run.stdout.strip() == expected, run.stderr
