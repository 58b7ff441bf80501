# SPDX-License-Identifier: Apache-2.0

"""Decode steps and fresh prompts as CUDA graphs: recorded once, started by one call.

Starting the kernels of a forward pass one by one from Python takes several times longer
than a GPU takes to run them. A graph holds them all. It reads and writes fixed
addresses and has fixed shapes, so its inputs are copied into buffers, and there is one
graph for each of a few shapes, to which others are padded:

- a decode step has a number of rows, and of positions that attention sees;
- prompts follow each other in one row of tokens (`RaggedStep`). Only the number of
  tokens counts: prompts of any lengths share a graph, without padding in between. Where
  attention reads the cache by spans (`flash`), they may go on from positions that their
  rows hold already, and rows that decode come before them, padded to all rows.

While a graph is recorded, the decoder layers run compiled (`compiled_layers`), so that
few kernels stand between the matrix products.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from ...phases import phase
from ...sampling.fetch import send
from ...sampling.sampler import best_of
from .. import flash
from ..cache import RaggedStep, SlotCache
from ..masks import Mask, Masks
from ..memory import is_out_of_memory
from ..rows import FILLER
from .compiled_layers import CompiledLayers
from .eager import EagerRunner, forward, only_positions
from .packing import Part, inputs_of
from .runner import StepRunner

log = logging.getLogger("unillm.transformers")

WARM_UP_S = 60.0
"""While an engine is made, no recording starts later than this. The other graphs are
recorded when a step first needs them, which adds some 0.3 s to that step."""

FEWEST_SEEN = 256
"""Positions that attention reads in the graph of the shortest rows."""

RAGGED_TOKENS = (64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
"""Tokens of prompts in one pass. More tokens keep a GPU busy without a graph."""


_Work = Callable[[], None]


def record_graphs(model: Any, cache: SlotCache, masks: Masks) -> StepRunner | None:
    """Record the passes of a model; log a warning and return `None` if they cannot be.

    Raises:
        RuntimeError: Memory ran out.
    """
    record = GraphRecorder(model.device)
    try:
        runner = GraphRunner(model, cache, masks, record)
        runner.probe()
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        _warn("without CUDA graphs", model, error)
        return None
    try:
        layers = CompiledLayers(model, cache)
        compiled = GraphRunner(model, cache, masks, record, layers=layers)
        compiled.warm_up()
    except Exception as error:  # a compiler may raise anything; plain graphs remain
        if is_out_of_memory(error):
            raise
        _warn("with CUDA graphs, but without compiled layers", model, error)
    else:
        return compiled
    runner.warm_up()
    return runner


def _warn(how: str, model: Any, error: Exception) -> None:
    log.warning(
        "%s runs %s, which is slower: %s: %s",
        type(model).__name__,
        how,
        type(error).__name__,
        str(error).partition("\n")[0],
    )


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the stream that graphs are recorded on.

    All engines share one: cuBLAS keeps 32 MiB for each stream that it has seen.
    """
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


class GraphRecorder:
    """Records the kernels that a function starts as a graph.

    All graphs share memory for intermediate results, so only one may run at a time.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = _side_stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, step: _Work) -> _Work:
        """Run *step* once, for its set-up, record it, and return the replay."""
        graph = torch.cuda.CUDAGraph()
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            step()
        with torch.cuda.graph(
            graph,
            pool=self._pool,
            stream=self._stream,
            # Other threads may use the device meanwhile.
            capture_error_mode="thread_local",
        ):
            step()
        return graph.replay


class GraphRunner(StepRunner):
    """Records and replays; a new shape is recorded by the first step that has it.

    *record* takes a step and returns its replay. While it records, *layers* run
    compiled; with `None` the model runs as it is.
    """

    def __init__(
        self,
        model: Any,
        cache: SlotCache,
        masks: Masks,
        record: Callable[[_Work], _Work],
        *,
        layers: CompiledLayers | None = None,
    ) -> None:
        self._model = model
        self._cache = cache
        self._masks = masks
        self._record = record
        self._layers: AbstractContextManager[object] = layers or nullcontext()
        in_spans = layers is not None and flash.splits(model)
        self._plain = EagerRunner(model, cache, masks, in_spans=in_spans)
        self._num_rows = len(cache.written)
        self._rows = row_counts(self._num_rows)
        self._seen = seen_counts(cache.capacity)
        self._device: torch.device = model.device
        vocab_size = model.get_output_embeddings().weight.shape[0]
        # Inputs and outputs of the graphs.
        self._fed = self._zeros(3, self._num_rows)
        self._prompt_inputs = self._zeros(5, self._num_rows + RAGGED_TOKENS[-1])
        self._ends = self._zeros(self._num_rows, 2)
        self.continues = masks.by_spans
        self._spans = self._zeros(2, 3, self._num_rows + 2).to(torch.int32)
        self._logits = torch.empty(
            self._num_rows, vocab_size, dtype=model.dtype, device=self._device
        )
        self._best = torch.empty(
            2, self._num_rows, dtype=torch.float64, device=self._device
        )
        # Recording a graph writes to the start of each row.
        for row in range(self._num_rows):
            cache.note_written(row, 1)
        self._steps: dict[tuple[int, int], _Work] = {}
        self._prompts: dict[tuple[int, bool], _Work] = {}

    # -------------------------------------------------------------------- replaying

    @override
    def rows_for(self, count: int) -> int:
        return next(rows for rows in self._rows if rows >= count)

    @override
    def run(self, fed: Tensor, *, seen: int) -> Tensor:
        rows = fed.shape[1]
        seen = next(each for each in self._seen if each >= seen)
        self._fed[:, :rows].copy_(fed)
        if (rows, seen) not in self._steps:
            self._record_step(rows, seen)
        self._steps[rows, seen]()
        self.best = self._best[:, :rows]
        return self._logits[:rows]

    @override
    def tokens_for(self, count: int, *, steps: int = 0) -> int | None:
        if self._masks.family.own_attention:
            return None
        fits = next((tokens for tokens in RAGGED_TOKENS if tokens >= count), None)
        return fits + self._num_rows if fits and steps else fits

    @override
    def write_prompts(
        self,
        rows: Sequence[int],
        tokens: Sequence[Sequence[int]],
        starts: Sequence[int],
        *,
        steps: Tensor | None = None,
    ) -> Tensor:
        split = len(tokens)
        count = self.tokens_for(sum(map(len, tokens)))
        assert count is not None, "too many tokens for one graph"
        prompts = Part(
            rows=rows[:split], tokens=tokens, starts=starts[:split], count=count
        )
        parts, lead = [prompts], 0
        if steps is not None:
            lead = self._num_rows
            decoded = Part(
                rows=rows[split:],
                tokens=[[FILLER]] * len(steps),
                starts=starts[split:],
                count=lead,
                is_steps=True,
            )
            parts.insert(0, decoded)
        ends = prompts.ends(at=lead)
        ends += range(len(rows) - split)
        ends += ends[:1] * (self._num_rows - len(ends))
        self._prompt_inputs[:, : lead + count] = inputs_of(parts, self._device)
        if steps is not None:
            self._prompt_inputs[0, : len(steps)] = steps
        self._ends[:, 1] = send(ends, self._device)
        if self.continues:
            self._copy_spans(parts)
        shape = (count, steps is not None)
        if shape not in self._prompts:
            self._record_prompts(count, joined=steps is not None)
        self._prompts[shape]()
        return self._logits[: len(rows)]

    def _copy_spans(self, parts: Sequence[Part]) -> None:
        """Copy the spans of prompts, and of rows that decode before them."""
        spans = [
            part.spans(
                row_size=self._cache.row_size,
                positions=self._cache.capacity,
                width=self._spans.shape[2],
            )
            for part in parts
        ]
        self._spans[-len(parts) :] = send(spans, self._device, torch.int32)

    # -------------------------------------------------------------------- recording

    def probe(self) -> None:
        """Record one step, and forget it."""
        with torch.inference_mode():
            self._record_step(self._rows[0], self._seen[0])
        self._steps.clear()

    def warm_up(self) -> None:
        """Record all graphs while there is time, those of short rows first."""
        begun = time.perf_counter()
        jobs = self._jobs()
        recorded = 0
        with torch.inference_mode(), phase("recording CUDA graphs") as report:
            for job in jobs:
                if time.perf_counter() - begun > WARM_UP_S:
                    break
                job()
                recorded += 1
                report(f"{recorded} of {len(jobs)}", fraction=recorded / len(jobs))
        log.info(
            "recorded %d of %d CUDA graphs in %.1f s",
            recorded,
            len(jobs),
            time.perf_counter() - begun,
        )

    def _jobs(self) -> list[_Work]:
        """Return functions that record a graph each, the most useful graphs first."""
        few, *more = (
            [partial(self._record_step, rows, seen) for rows in reversed(self._rows)]
            for seen in self._seen
        )
        if not self._masks.family.own_attention:
            few += [
                partial(self._record_prompts, tokens, joined=joined)
                for joined in ((False, True) if self.continues else (False,))
                for tokens in RAGGED_TOKENS
            ]
        return [*few, *itertools.chain.from_iterable(more)]

    def _record_step(self, rows: int, seen: int) -> None:
        def step() -> None:
            self._output(self._plain.run(self._fed[:, :rows], seen=seen))

        with self._layers:
            self._steps[rows, seen] = self._record(step)

    def _record_prompts(self, count: int, *, joined: bool) -> None:
        tokens = count + self._num_rows if joined else count

        def step() -> None:
            ids, rows, positions, prompts, sources = self._prompt_inputs[:, :tokens]
            by_spans = self._masks.by_spans
            mask: Mask = self._spans[None] if joined else self._spans[None, 1:]
            if not by_spans:
                mask = self._masks.for_ragged(positions, prompts)
            with only_positions(self._model.get_output_embeddings(), self._ends):
                logits = forward(
                    self._model,
                    self._cache,
                    RaggedStep(rows, positions, sources, by_spans=by_spans),
                    ids=ids[None],
                    positions=positions[None],
                    mask=mask,
                )
            self._output(logits)

        with self._layers:
            self._prompts[count, joined] = self._record(step)

    def _output(self, logits: Tensor) -> None:
        """Copy logits, and the highest of each row, to where the host reads them."""
        rows = logits.shape[0]
        self._logits[:rows].copy_(logits)
        self._best[:, :rows].copy_(best_of(logits))

    def _zeros(self, *size: int) -> Tensor:
        return torch.zeros(size, dtype=torch.int64, device=self._device)


def row_counts(num_rows: int) -> list[int]:
    """Return the numbers of rows that graphs are recorded for, ascending."""
    few = [rows for rows in (1, 2, 4) if rows < num_rows]
    return [*few, *range(8, num_rows, 8), num_rows]


def seen_counts(capacity: int) -> list[int]:
    """Return the numbers of positions seen that graphs are recorded for, ascending."""
    counts = []
    seen = FEWEST_SEEN
    while seen < capacity:
        counts.append(seen)
        seen *= 2
    return [*counts, capacity]
