# SPDX-License-Identifier: Apache-2.0

"""`OneThread`: steps that the calling thread computes alone."""

from __future__ import annotations

import ctypes

import torch

from ...openmp import libraries


class OneThread:
    """A block in which GNU's OpenMP gives the calling thread no others.

    torch's own setting would also become that of other threads, if they have not
    computed anything yet.

    Attributes:
        changes: Whether there is anything to change.
    """

    def __init__(self) -> None:
        self._libraries = [ctypes.CDLL(path) for path in libraries()]
        self._threads: list[int] = []
        self.changes = bool(self._libraries) and torch.get_num_threads() > 1

    def __enter__(self) -> None:
        self._threads = [each.omp_get_max_threads() for each in self._libraries]
        for library in self._libraries:
            library.omp_set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        for library, threads in zip(self._libraries, self._threads, strict=True):
            library.omp_set_num_threads(threads)
