# SPDX-License-Identifier: Apache-2.0

"""The number of threads of an engine in this process, on a CPU.

It is torch's: all cores, or the number of ``OMP_NUM_THREADS`` or of the program.
"""

from __future__ import annotations

from typing import Any


class OmpThreads:
    """Sets torch's number in the calling thread, which creates and steps an engine.

    Each thread of a program has its own number. torch and vLLM's kernels read it in two
    ways, and vLLM checks that both agree.
    """

    def __init__(self) -> None:
        import torch

        self._torch: Any = torch
        self._number: int = torch.get_num_threads()
        self._function = torch.set_num_threads  # vLLM replaces it with a no-op
        self._set()

    def restore(self) -> None:
        """Restore the function that sets the number, and the number."""
        self._torch.set_num_threads = self._function
        self._set()

    def _set(self) -> None:
        self._torch._C.set_num_threads(self._number)  # noqa: SLF001 - see above
