# SPDX-License-Identifier: Apache-2.0

"""Decode steps compiled by torch, on a CPU, for those who ask for it.

A compiled step of a small model takes half the time of an eager one, and compiling it
takes 4 to 35 s for six layers on two cores, during which nobody gets a token. Only the
caller knows whether that pays, so it is done when so many steps were taken as he said:
counted in steps and not in seconds, for tokens that do not depend on how busy the
machine was.

All rows of a step are compiled as one graph with fixed shapes. Attention walks over
the blocks that a row has (`blocks.py`), so that no length is compiled again.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType
from typing import Any, cast

import torch
from torch import Tensor
from torch._inductor.compile_fx import compile_fx
from torch.fx import GraphModule
from typing_extensions import override

from .. import families
from ..blocks import block_masks
from ..cache import DecodeStep, SlotCache
from ..masks import Mask, Masks
from ..memory import is_out_of_memory
from .eager import DecodeRunner, EagerRunner, forward

log = logging.getLogger("unillm.transformers")

FEWEST_ROWS = 4
"""Fewer rows take as long: oneDNN multiplies packed weights by four rows faster than by
one, 186 against 235 µs for 2176 x 384 of them."""

_MANY_ROWS = 8
"""Up to here a step costs nearly the same, so one graph serves all of them."""

Compiled = Callable[[Tensor, Tensor], Tensor]

_NO_ASSERTS: Mapping[str, Any] = {"size_asserts": False, "alignment_asserts": False}
"""Asking each tensor for its shape takes a tenth of a step of a 0.65M Llama."""


class CompilingRunner(DecodeRunner):
    """Steps eagerly at first, and compiled once that pays.

    Args:
        model: On a CPU.
        cache: Its tensors stay where they are.
        masks: Of the model.
        compile_after: Steps to take eagerly first, of each number of rows.
    """

    def __init__(
        self, model: Any, cache: SlotCache, masks: Masks, *, compile_after: int
    ) -> None:
        self._model = model
        self._cache = cache
        self._masks = masks
        self._compile_after = compile_after
        self._eager = EagerRunner(model, cache, masks)
        self._num_rows = len(cache.written)
        self._steps: Counter[int] = Counter()
        self._compiled: dict[int, Compiled] = {}
        self._failed = False

    @override
    def rows_for(self, count: int) -> int:
        rows = self._bucket(count)
        if rows in self._compiled or self._is_due(rows):
            return rows
        return min(max(count, FEWEST_ROWS), self._num_rows)

    @override
    def run(self, ids: Tensor, positions: Tensor, *, seen: int) -> Tensor:
        rows = self._bucket(ids.shape[0])
        if step := self._compiled.get(rows):
            return step(ids, positions)
        if self._is_due(rows):
            logits = self._compile(rows, ids, positions)
            if logits is not None:
                return logits
        self._steps[rows] += 1
        return self._eager.run(ids, positions, seen=seen)

    def _bucket(self, count: int) -> int:
        """Return the number of rows that a graph for *count* of them has."""
        rows = _MANY_ROWS
        while rows < count:
            rows *= 2
        return min(rows, self._num_rows)

    def _is_due(self, rows: int) -> bool:
        return not self._failed and self._steps[rows] >= self._compile_after

    def _compile(self, rows: int, ids: Tensor, positions: Tensor) -> Tensor | None:
        """Compile the step of all *rows* and take it; `None` if that cannot be."""
        log.info(
            "Compiling the decode step of %d rows; enforce_eager=True does without.",
            rows,
        )
        start = time.perf_counter()
        step = compile_step(self._model, self._cache, self._masks)
        try:
            logits = step(ids, positions)
        except Exception as error:  # whatever a compiler raises, there is a way without
            if is_out_of_memory(error):
                raise
            self._failed = True
            log.warning(
                "The decode step of %s cannot be compiled here, so it takes longer: "
                "%s: %s. Compiling needs a C++ compiler; with enforce_eager=True it is "
                "not tried.",
                type(self._model).__name__,
                type(error).__name__,
                str(error).strip().partition("\n")[0],
            )
            return None
        self._compiled[rows] = step
        log.info(
            "Compiled the decode step of %d rows in %.1f s.",
            rows,
            time.perf_counter() - start,
        )
        return logits


def refusal(model: Any, masks: Masks) -> str | None:
    """Say why the steps of a model are not compiled, or `None`."""
    config = model.config.get_text_config(decoder=True)
    if masks.by_length:
        return f"{config.model_type!r} attends by code of its own"
    if config.model_type in families.SINKS:
        return f"{config.model_type!r} has attention sinks"
    if config.model_type in families.NOT_COMPILED:
        return f"torch does not compile the attention of {config.model_type!r}"
    return None


def compile_step(model: Any, cache: SlotCache, masks: Masks) -> Compiled:
    """Return a step that is compiled for the number of rows of its first call."""
    config = model.config.get_text_config(decoder=True)
    queries = config.num_attention_heads // cache.shape.kv_heads

    def step(ids: Tensor, positions: Tensor) -> Tensor:
        decode = DecodeStep(
            positions,
            seen=cache.capacity,
            kv_heads=cache.shape.kv_heads,
            capacity=cache.capacity,
        )
        logits = forward(
            model,
            cache,
            decode,
            ids=ids[:, None],
            positions=positions[:, None],
            mask=cast(
                "Mask",
                block_masks(masks, positions, queries=queries, capacity=cache.capacity),
            ),
        )
        cache.step = None  # else each call would hand it out of the graph
        return logits

    return _Graph(step)


class _Graph:
    """A function compiled as one graph for the shapes of its first call.

    Later calls go to the graph itself. What torch does around one costs 0.2 ms a step
    of a 10M Llama: asking whether all it depends on is as it was, collecting weights
    and cache, and doing again whatever the function did to Python objects. All of that
    is fixed here: this model, this cache, this number of rows.
    """

    def __init__(self, function: Compiled) -> None:
        self._function: Compiled | None = _with_own_code(function)
        self._graph: Callable[..., Sequence[Tensor]]
        self._inputs: list[Any]
        self._places: tuple[int, int, int]

    def __call__(self, ids: Tensor, positions: Tensor) -> Tensor:
        if self._function is not None:
            return self._compile(self._function, ids, positions)
        first, second, output = self._places
        inputs = self._inputs.copy()
        inputs[first], inputs[second] = ids, positions
        return self._graph(*inputs)[output]

    def _compile(self, function: Compiled, ids: Tensor, positions: Tensor) -> Tensor:
        """Compile, call, and note where the graph has what differs between calls."""
        # torch keeps what it compiled for good, so that must not hold weights.
        noted: list[tuple[Any, list[Any], Sequence[Tensor]]] = []

        def compiler(graph: GraphModule, examples: list[Any]) -> Callable[..., Any]:
            compiled = cast(
                "Callable[..., Sequence[Tensor]]",
                compile_fx(graph, examples, config_patches=dict(_NO_ASSERTS)),
            )

            def call(*inputs: Any) -> Sequence[Tensor]:
                outputs = compiled(*inputs)
                noted.append((compiled, list(inputs), outputs))
                return outputs

            return call

        result = torch.compile(
            function, backend=compiler, fullgraph=True, dynamic=False
        )(ids, positions)
        self._graph, self._inputs, outputs = noted.pop()
        self._places = (
            _place(ids, self._inputs),
            _place(positions, self._inputs),
            _place(result, outputs),
        )
        self._function = None
        return result


def _place(wanted: Tensor, tensors: Sequence[Any]) -> int:
    return next(i for i, tensor in enumerate(tensors) if tensor is wanted)


def _with_own_code(function: Compiled) -> Compiled:
    """Copy a function: torch counts by code how often it compiled, up to a limit."""
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
