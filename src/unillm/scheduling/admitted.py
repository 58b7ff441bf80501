# SPDX-License-Identifier: Apache-2.0

"""`AdmittedRequest`: a request from its first run to its end, across several runs."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import attrs

from ..engines.base import EngineRequest
from ..engines.batches import BatchRow
from ..outputs import FinishReason, SlotMetrics


@attrs.define(eq=False)
class AdmittedRequest:
    """A request that a run admitted and that has not ended."""

    request: EngineRequest
    group: Hashable
    """From `BatchEngine.group`."""
    waited_steps: int
    bound: bool
    """Whether it must end in its first run."""
    refilled: bool = False
    generated: list[int] = attrs.Factory(list)
    num_runs: int = 0
    padding: int = 0
    ready_at: int = 0
    """Scheduler step since which it is in no run."""
    row: int = 0
    """Its row of the present run, or of the last one."""
    generated_before: int = 0
    """New tokens that it had when that run began."""

    @property
    def length(self) -> int:
        """Tokens of its prompt and its new tokens."""
        return len(self.request.prompt_token_ids) + len(self.generated)

    @property
    def left(self) -> int:
        """New tokens that it may still have."""
        return self.request.max_new_tokens - len(self.generated)

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why it ends after its last new token; `None` if it goes on."""
        if self.generated[-1] in self.request.stop_token_ids:
            return "stop"
        return "length" if self.left <= 0 else None

    def accept(self, token_ids: Sequence[int]) -> tuple[int, ...]:
        """Add new tokens, without those after its end; return the added ones."""
        added = tuple(token_ids[: self.left])
        for count, token_id in enumerate(added, start=1):
            if token_id in self.request.stop_token_ids:
                added = added[:count]
                break
        self.generated += added
        return added

    def as_row(self) -> BatchRow:
        """Return the row with which a run begins."""
        return BatchRow(request=self.request, generated=tuple(self.generated))

    def metrics(self) -> SlotMetrics:
        """Return its metrics so far."""
        return SlotMetrics(
            waited_steps=self.waited_steps,
            prefill_chunks=self.num_runs,
            prefill_padding=self.padding,
            decode_steps=len(self.generated),
            refilled=self.refilled,
        )


def assign_rows(
    survivors: Sequence[AdmittedRequest], joining: Sequence[AdmittedRequest]
) -> list[AdmittedRequest]:
    """Return the requests of a run by row.

    A survivor keeps its row where the new run has that row.
    """
    size = len(survivors) + len(joining)
    rows: dict[int, AdmittedRequest] = {}
    moved = []
    for each in survivors:
        if each.row < size and each.row not in rows:
            rows[each.row] = each
        else:
            moved.append(each)
    free = [row for row in range(size) if row not in rows]
    for each, each.row in zip([*moved, *joining], free, strict=True):
        rows[each.row] = each
    return [rows[row] for row in range(size)]
