# SPDX-License-Identifier: Apache-2.0

"""`JoiningRunner`: prompts, and rows that decode, in one pass on a CPU.

A pass reads all weights, however few tokens it has. So prompts and the step of the
other rows are one pass, in which each token sees its range of the cache (`ranges`).
Nothing of it is compiled, because each pass has another number of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from typing_extensions import override

from ...sampling.fetch import send
from ..cache import RaggedStep, SlotCache
from ..grouping import WIDTH_STEP
from ..masks import Masks
from ..rows import FILLER
from .eager import forward, only_positions
from .packing import Part, inputs_of
from .runner import StepRunner

MOST_TOKENS = 256
"""Each token of a prompt reads its range for itself. By an estimate, that takes longer
than the step that a pass saves where there are some more tokens."""


class JoiningRunner(StepRunner):
    """Computes prompts and rows that decode together, once it `continues`.

    Args:
        model: The model.
        cache: Its cache.
        masks: Its masks.
    """

    def __init__(self, model: Any, cache: SlotCache, masks: Masks) -> None:
        self._model = model
        self._cache = cache
        self._masks = masks

    @override
    def tokens_for(self, count: int, *, steps: int = 0) -> int | None:
        if not self.continues or count > MOST_TOKENS:
            return None
        return -(-(count + steps) // WIDTH_STEP) * WIDTH_STEP

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
        lead = len(rows) - split
        count = self.tokens_for(sum(map(len, tokens)), steps=lead)
        assert count is not None, "too many tokens for one pass"
        prompts = Part(
            rows=rows[:split], tokens=tokens, starts=starts[:split], count=count - lead
        )
        parts = [prompts]
        if steps is not None:
            decoded = Part(
                rows=rows[split:],
                tokens=[[FILLER]] * lead,
                starts=starts[split:],
                count=lead,
            )
            parts.insert(0, decoded)
        inputs = inputs_of(parts, self._cache.device)
        if steps is not None:
            inputs[0, :lead] = steps
        ids, numbers, positions, _, sources = inputs
        ends = [(0, end) for end in (*prompts.ends(at=lead), *range(lead))]
        head = self._model.get_output_embeddings()
        with only_positions(head, send(ends, self._cache.device)):
            return forward(
                self._model,
                self._cache,
                RaggedStep(numbers, positions, sources, by_spans=True),
                ids=ids[None],
                positions=positions[None],
                mask=self._masks.in_ranges(numbers, positions),
            )
