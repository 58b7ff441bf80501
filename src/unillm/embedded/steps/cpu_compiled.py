# SPDX-License-Identifier: Apache-2.0

"""Decode steps that torch compiles, on a CPU and on request.

A compiled step of a small model takes half the time of an eager one, and compiling it
takes 4 to 35 s for six layers on two cores, during which no stream gets a token. Only
the caller knows whether that pays, so it happens after the caller's number of steps.
Steps are counted, not seconds, so that tokens do not depend on how busy the machine is.

This process compiles them, once for each number of rows. `background` has another one
do it.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any, cast

import torch
from torch import Tensor
from torch._inductor.compile_fx import compile_fx
from torch.fx import GraphModule
from typing_extensions import override

from ...phases import phase
from ..cache import SlotCache
from ..masks import Masks
from ..memory import is_out_of_memory
from .compilable import OPTIONS, Compiled, rows_of_graph, step_of
from .eager import EagerRunner
from .joined import JoiningRunner

log = logging.getLogger("unillm.transformers")

FEWEST_ROWS = 4
"""Fewer rows take as long: oneDNN multiplies 2176 x 384 packed weights by four rows in
186 µs, and by one row in 235 µs."""


class CompilingRunner(JoiningRunner):
    """Takes *compile_after* eager steps of each number of rows, then compiled ones."""

    def __init__(
        self, model: Any, cache: SlotCache, masks: Masks, *, compile_after: int
    ) -> None:
        super().__init__(model, cache, masks)
        self._compile_after = compile_after
        self._eager = EagerRunner(model, cache, masks)
        self._num_rows = len(cache.written)
        self._steps: Counter[int] = Counter()
        self._compiled: dict[int, Compiled] = {}
        self._failed = False

    @override
    def rows_for(self, count: int) -> int:
        rows = rows_of_graph(count, self._num_rows)
        if rows in self._compiled or self._is_due(rows):
            return rows
        return min(max(count, FEWEST_ROWS), self._num_rows)

    @override
    def run(self, fed: Tensor, *, seen: int) -> Tensor:
        rows = rows_of_graph(fed.shape[1], self._num_rows)
        if step := self._compiled.get(rows):
            return step(fed)
        if self._is_due(rows):
            logits = self._compile(rows, fed)
            if logits is not None:
                return logits
        self._steps[rows] += 1
        return self._eager.run(fed, seen=seen)

    def _is_due(self, rows: int) -> bool:
        return not self._failed and self._steps[rows] >= self._compile_after

    def _compile(self, rows: int, fed: Tensor) -> Tensor | None:
        """Compile the step of all *rows* and take it; `None` if torch cannot."""
        log.info(
            "Compiling the decode step of %d rows; enforce_eager=True prevents it.",
            rows,
        )
        start = time.perf_counter()
        step = compile_step(self._model, self._cache, self._masks)
        try:
            with phase(f"compiling the decode step of {rows} rows"):
                logits = step(fed)
        except Exception as error:  # a compiler may raise anything; eager steps remain
            if is_out_of_memory(error):
                raise
            self._failed = True
            log.warning(
                "torch cannot compile the decode step of %s, so steps stay eager and "
                "take longer: %s: %s. Compiling needs a C++ compiler; "
                "enforce_eager=True skips it.",
                type(self._model).__name__,
                type(error).__name__,
                str(error).strip().partition("\n")[0],
            )
            return None
        self._compiled[rows] = step
        self.continues = True  # the kernel of its attention is there
        log.info(
            "Compiled the decode step of %d rows in %.1f s.",
            rows,
            time.perf_counter() - start,
        )
        return logits


def compile_step(model: Any, cache: SlotCache, masks: Masks) -> Compiled:
    """Return a step, compiled for the number of rows of its first call."""
    return _Graph(step_of(model, cache, masks))


class _Graph:
    """A function compiled as one graph for the shapes of its first call.

    Later calls go to the graph itself. torch's work around a graph costs 0.2 ms a step
    of a 10M Llama: it checks the guards, collects weights and cache, and repeats the
    function's effects on Python objects. Here all of that is fixed: one model, one
    cache, one number of rows.
    """

    def __init__(self, function: Compiled) -> None:
        self._function: Compiled | None = _with_own_code(function)
        self._graph: Callable[..., Sequence[Tensor]]
        self._inputs: list[Any]
        self._indices: tuple[int, int]

    def __call__(self, fed: Tensor) -> Tensor:
        if self._function is not None:
            return self._compile(self._function, fed)
        index, output = self._indices
        inputs = self._inputs.copy()
        inputs[index] = fed
        return self._graph(*inputs)[output]

    def _compile(self, function: Compiled, fed: Tensor) -> Tensor:
        """Compile and call; record where the graph takes *fed*."""
        # torch never frees compiled functions, so they must not hold weights.
        calls: list[tuple[Any, list[Any], Sequence[Tensor]]] = []

        def compiler(graph: GraphModule, examples: list[Any]) -> Callable[..., Any]:
            compiled = cast(
                "Callable[..., Sequence[Tensor]]",
                compile_fx(graph, examples, config_patches=dict(OPTIONS)),
            )

            def call(*inputs: Any) -> Sequence[Tensor]:
                outputs = compiled(*inputs)
                calls.append((compiled, list(inputs), outputs))
                return outputs

            return call

        result = torch.compile(
            function, backend=compiler, fullgraph=True, dynamic=False
        )(fed)
        self._graph, self._inputs, outputs = calls.pop()
        self._indices = _index_of(fed, self._inputs), _index_of(result, outputs)
        self._function = None
        return result


def _index_of(wanted: Tensor, tensors: Sequence[Any]) -> int:
    return next(i for i, tensor in enumerate(tensors) if tensor is wanted)


def _with_own_code(function: Compiled) -> Compiled:
    """Copy a function, because torch limits how often it compiles the same code."""
    assert isinstance(function, FunctionType)
    copy = FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    assert copy.__code__ is not function.__code__
    return copy
