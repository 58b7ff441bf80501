# SPDX-License-Identifier: Apache-2.0

"""How many threads an engine in our process computes with, on a CPU.

vLLM's kernels check that all of a step is computed with one number of OpenMP threads,
and each thread of a program has a number of its own. So the thread that steps the
engine is given the number first.
"""

from __future__ import annotations

import os
import threading
from typing import Any

VARIABLE = "OMP_NUM_THREADS"


class OmpThreads:
    """The number of threads, while an engine lives.

    It is torch's, but at most all cores but one, which is left to Python: on two cores,
    two threads made an engine slower than one did. Who sets ``OMP_NUM_THREADS`` has
    chosen.
    """

    def __init__(self) -> None:
        import torch

        self._torch: Any = torch
        self._before: int = torch.get_num_threads()
        self._function = torch.set_num_threads  # vLLM replaces it
        others = len(os.sched_getaffinity(0)) - 1
        chosen = VARIABLE in os.environ
        self.number = self._before if chosen else min(self._before, max(1, others))
        self._thread: int | None = None

    def use(self) -> None:
        """Give the number to the calling thread. Costs nothing the second time."""
        thread = threading.get_ident()
        if thread != self._thread:
            self._thread = thread
            # Not the public name, which vLLM makes do nothing.
            self._torch._C.set_num_threads(self.number)  # noqa: SLF001

    def restore(self) -> None:
        """Put back the number and the function that sets it."""
        self._torch.set_num_threads = self._function
        self._torch.set_num_threads(self._before)
