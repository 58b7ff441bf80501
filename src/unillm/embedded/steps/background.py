# SPDX-License-Identifier: Apache-2.0

"""`BackgroundRunner`: eager steps, until a process beside the engine compiled them."""

from __future__ import annotations

import contextlib
import enum
import logging
import os
import shutil
import statistics
import sys
import sysconfig
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from ...model.memory import GIB
from ...openmp import cpu_quota
from ..cache import SlotCache
from ..masks import Masks
from ..memory import free_bytes, is_out_of_memory
from .compilable import Compiled, rows_of_graph
from .compiling import Compilation, Task
from .eager import EagerRunner
from .joined import JoiningRunner
from .one_thread import OneThread

log = logging.getLogger("unillm.transformers")

BUSY_S = 20.0
"""Seconds in eager steps of a number of rows after which a process compiles them. That
is about what compiling six layers takes from the steps beside it, on two cores, so a
run that ends just then has lost less than a third of its time."""

FREE_BYTES = 2 * GIB
"""Memory that has to be free: the process and a C++ compiler take up to half of it."""

_TRIALS = 9
"""Steps of each way that are compared."""

_TRIAL_HOLDS = 1000
"""Steps after which they are compared again: other programs come and go."""

_FIRST_TRIAL_HOLDS = 100
"""Steps after the first comparison, beside which a compiled step is being loaded."""


class Way(enum.Enum):
    """How a step is taken."""

    EAGER = enum.auto()
    COMPILED = enum.auto()
    COMPILED_ALONE = enum.auto()
    """On one thread: where another program has a core, a team waits for it."""


class BackgroundRunner(JoiningRunner):
    """Takes eager steps, and compiled ones as soon as they are there and are faster.

    Args:
        model: The model.
        cache: Its cache.
        masks: Its masks.
    """

    def __init__(self, model: Any, cache: SlotCache, masks: Masks) -> None:
        super().__init__(model, cache, masks)
        self._eager = EagerRunner(model, cache, masks)
        self._num_rows = len(cache.written)
        self._threads = torch.get_num_threads()
        self._busy_s: defaultdict[int, float] = defaultdict(float)
        self._compiled: dict[int, Compiled] = {}
        self._one_thread = OneThread()
        ways = [
            way
            for way in Way
            if self._one_thread.changes or way is not Way.COMPILED_ALONE
        ]
        self._trials: defaultdict[int, _Trial] = defaultdict(lambda: _Trial(ways))
        self._compilation: Compilation | None = None
        self._since = 0.0
        self._failed = False
        self._count = 0
        self._way = Way.EAGER

    @override
    def rows_for(self, count: int) -> int:
        rows = rows_of_graph(count, self._num_rows)
        self._count = count
        if rows in self._compiled:
            self._way = self._trials[count].way()
        else:
            self._way = Way.EAGER
        return count if self._way is Way.EAGER else rows

    @override
    def run(self, fed: Tensor, *, seen: int) -> Tensor:
        rows = rows_of_graph(fed.shape[1], self._num_rows)
        step = self._compiled.get(rows)
        start = time.perf_counter()
        if step is not None and self._way is not Way.EAGER:
            logits = self._run_compiled(step, fed, seen=seen)
        else:
            logits = self._eager.run(fed, seen=seen)
        spent = time.perf_counter() - start
        if step is not None:
            self._trials[self._count].note(spent, self._way)
        elif not self._failed:
            self._busy_s[rows] += spent
        self._look(rows)
        return logits

    @override
    def close(self) -> None:
        if self._compilation is not None:
            self._compilation.close()
            self._compilation = None

    def _run_compiled(self, step: Compiled, fed: Tensor, *, seen: int) -> Tensor:
        alone = self._way is Way.COMPILED_ALONE
        try:
            with self._one_thread if alone else contextlib.nullcontext():
                return step(fed)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            self._compiled.clear()
            self.continues = False
            self._fail(error)
        # It writes the same positions once more.
        return self._eager.run(fed, seen=seen)

    def _look(self, rows: int) -> None:
        """Begin to compile, or take over what is compiled."""
        if self._failed:
            return
        try:
            if self._compilation is None:
                if self._busy_s[rows] >= BUSY_S and rows not in self._compiled:
                    self._busy_s[rows] = 0.0
                    self._begin(rows)
            elif self._compilation.is_over():
                self._take_over(self._compilation)
        except Exception as error:  # noqa: BLE001 - a compiler may raise anything
            self._fail(error)

    def _begin(self, rows: int) -> None:
        if free_bytes(self._model.device) < FREE_BYTES:
            return
        self._cache.step = None  # it holds tensors of the last step
        self._since = time.perf_counter()
        self._compilation = Compilation(
            Task(
                model=self._model,
                cache=self._cache,
                masks=self._masks,
                rows=rows,
                threads=self._threads,
            )
        )
        log.info("A process compiles the decode step of %d rows.", rows)

    def _take_over(self, compilation: Compilation) -> None:
        self._compiled[compilation.rows] = compilation.result()
        self.continues = True  # the kernel of its attention is there
        self._compilation = None
        log.info(
            "Decode steps of %d rows are compiled from now on; that took %.1f s.",
            compilation.rows,
            time.perf_counter() - self._since,
        )

    def _fail(self, error: Exception) -> None:
        self.close()
        self._failed = True
        log.warning(
            "torch cannot compile the decode step of %s, so steps stay eager and take "
            "longer: %s: %s. enforce_eager=True skips it.",
            type(self._model).__name__,
            type(error).__name__,
            str(error).strip().partition("\n")[0],
        )


class _Trial:
    """Which way is the fastest for a number of rows that slots asked for.

    The ways take turns until there are enough steps of each, now and then.

    Args:
        ways: The ways.
    """

    def __init__(self, ways: Iterable[Way]) -> None:
        self._seconds: dict[Way, list[float]] = {way: [] for way in ways}
        self._verdict: Way | None = None
        self._holds = _FIRST_TRIAL_HOLDS
        self._left = 0

    def way(self) -> Way:
        """Return how the next step is to be taken."""
        if self._verdict is None:
            return min(self._seconds, key=lambda way: len(self._seconds[way]))
        return self._verdict

    def note(self, seconds: float, way: Way) -> None:
        """Note what a step took."""
        if self._verdict is not None:
            self._left -= 1
            if self._left == 0:
                self._seconds = {way: [] for way in self._seconds}
                self._verdict = None
            return
        if len(self._seconds[way]) < _TRIALS:
            self._seconds[way].append(seconds)
        if min(map(len, self._seconds.values())) >= _TRIALS:
            medians = {way: statistics.median(s) for way, s in self._seconds.items()}
            self._verdict = min(medians, key=medians.__getitem__)
            self._left, self._holds = self._holds, _TRIAL_HOLDS


def can_compile() -> bool:
    """Return whether a process can compile here, beside the threads of an engine."""
    # A quota counts the process's time as the engine's, whatever its priority.
    quota = cpu_quota()
    return (
        sys.platform == "linux"
        and bool(sys.executable)
        and not getattr(sys, "frozen", False)
        and shutil.which(os.environ.get("CXX", "g++")) is not None
        and Path(sysconfig.get_path("include"), "Python.h").exists()
        and (quota is None or quota >= torch.get_num_threads() + 1)
        and not {"TORCH_COMPILE_DISABLE", "TORCHDYNAMO_DISABLE"} & os.environ.keys()
    )
