# SPDX-License-Identifier: Apache-2.0

"""How many threads an engine in our process computes with, on a CPU.

As many as torch: all cores, or what ``OMP_NUM_THREADS`` or the program says.
"""

from __future__ import annotations

from typing import Any


class OmpThreads:
    """Gives torch's number to the calling thread, which has to make and step an engine.

    Each thread of a program has a number of its own, torch and vLLM's kernels ask for
    it in two ways, and vLLM checks that both are told the same.
    """

    def __init__(self) -> None:
        import torch

        self._torch: Any = torch
        self._number: int = torch.get_num_threads()
        self._function = torch.set_num_threads  # vLLM makes it do nothing
        self._set()

    def restore(self) -> None:
        """Put back the function that sets the number, and the number."""
        self._torch.set_num_threads = self._function
        self._set()

    def _set(self) -> None:
        self._torch._C.set_num_threads(self._number)  # noqa: SLF001 - see above
