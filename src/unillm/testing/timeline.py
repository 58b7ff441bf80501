# SPDX-License-Identifier: Apache-2.0

"""Who held which slot, step by step: recorders of real runs, and a drawing of them.

`RecordingSlotEngine` stands between a `SlotScheduler` and its engine and notes what
passes; it changes nothing. `RecordingBatchEngine` does the same below a `RunScheduler`,
where the slots are the rows of the runs. `draw` turns what they noted into an SVG. For
tests, benchmarks and pages; the schedulers themselves know nothing of it.
"""

from __future__ import annotations

from collections.abc import Generator, Hashable, Sequence
from xml.sax.saxutils import escape

import attrs
from typing_extensions import override

from ..engines.base import EngineRequest
from ..engines.batches import BatchEngine, BatchRow, Run, RunStep
from ..engines.slots import PrefillResult, PromptChunk, SlotEngine, SlotToken


@attrs.frozen(kw_only=True)
class Hold:
    """A request's time in a slot. Steps count from 0, both ends belong to it."""

    request_id: str
    slot: int
    first_step: int
    last_step: int
    """Of its last token; at least `first_step`."""
    prompt_steps: int
    """Steps in which its prompt was computed. The last one gives a token too."""

    @property
    def num_steps(self) -> int:
        """Steps from the first to the last."""
        return self.last_step - self.first_step + 1


@attrs.frozen(kw_only=True)
class Timeline:
    """All holds of a run, in the order in which they began."""

    num_slots: int
    holds: tuple[Hold, ...]

    @property
    def num_steps(self) -> int:
        """Steps from the first hold to the end of the last."""
        return max((hold.last_step + 1 for hold in self.holds), default=0)

    @property
    def occupancy(self) -> float:
        """Share of the slot-steps in which the slot was held; 0 for an empty run."""
        used = sum(hold.num_steps for hold in self.holds)
        return used / (self.num_slots * self.num_steps or 1)

    def as_static_batches(self) -> Timeline:
        """Return how static batches of the same requests would have gone.

        Computed, not run: the requests in the same order, as many at a time as there
        are slots, each for as many steps as it had; a batch starts when all of the last
        one have ended.
        """
        holds: list[Hold] = []
        start = 0
        for first in range(0, len(self.holds), self.num_slots):
            batch = self.holds[first : first + self.num_slots]
            holds += [
                attrs.evolve(
                    hold,
                    slot=slot,
                    first_step=start,
                    last_step=start + hold.num_steps - 1,
                )
                for slot, hold in enumerate(batch)
            ]
            start += max(hold.num_steps for hold in batch)
        return Timeline(num_slots=self.num_slots, holds=tuple(holds))


class RecordingSlotEngine(SlotEngine):
    """Does what another slot engine does, and notes who held which slot.

    A step of the record ends with a decode call: prefill calls in a row, with no row to
    decode between them, are one step.

    Args:
        engine: Computes. Closed with this one.
    """

    def __init__(self, engine: SlotEngine) -> None:
        self._engine = engine
        self._step = 0
        self._live: dict[int, Hold] = {}
        self._holds: list[Hold] = []  # as they were when they ended
        self.num_slots = self._engine.num_slots
        self.max_model_len = self._engine.max_model_len
        self.vocab_size = self._engine.vocab_size
        self.capabilities = self._engine.capabilities

    def timeline(self) -> Timeline:
        """Return the record until now; what still runs ends at its last token."""
        holds = sorted(
            [*self._holds, *self._live.values()], key=lambda h: (h.first_step, h.slot)
        )
        return Timeline(num_slots=self.num_slots, holds=tuple(holds))

    @override
    def prefill(self, chunks: Sequence[PromptChunk]) -> PrefillResult:
        result = self._engine.prefill(chunks)
        for chunk in chunks:
            self._note_chunk(chunk)
        return result

    @override
    def decode(self, slots: Sequence[int]) -> Sequence[SlotToken]:
        tokens = self._engine.decode(slots)
        for slot in slots:
            self._live[slot] = attrs.evolve(self._live[slot], last_step=self._step)
        self._step += 1
        return tokens

    @override
    def release(self, slot: int) -> None:
        self._engine.release(slot)
        self._holds.append(self._live.pop(slot))

    @override
    def close(self) -> None:
        self._engine.close()

    def _note_chunk(self, chunk: PromptChunk) -> None:
        if chunk.is_first:
            self._live[chunk.slot] = Hold(
                request_id=chunk.request.request_id,
                slot=chunk.slot,
                first_step=self._step,
                last_step=self._step,
                prompt_steps=1,
            )
            return
        hold = self._live[chunk.slot]
        self._live[chunk.slot] = attrs.evolve(
            hold,
            last_step=self._step,
            prompt_steps=self._step - hold.first_step + 1,
        )


class RecordingBatchEngine(BatchEngine):
    """Does what another batch engine does, and notes who was in which row of its runs.

    A request that was stopped has a hold for each run that it was in. The dark
    beginning of a hold are the steps until the run gave it a token.

    Args:
        engine: Computes. Closed with this one.
    """

    def __init__(self, engine: BatchEngine) -> None:
        self._engine = engine
        self._step = 0
        self._holds: dict[tuple[int, int], Hold] = {}  # by first step and row
        self.limits = self._engine.limits
        self.traits = self._engine.traits
        self.capabilities = self._engine.capabilities

    def timeline(self) -> Timeline:
        """Return the record until now; what still runs ends at its last token."""
        holds = sorted(self._holds.values(), key=lambda h: (h.first_step, h.slot))
        return Timeline(num_slots=self.limits.max_num_seqs, holds=tuple(holds))

    @override
    def group(self, request: EngineRequest) -> Hashable:
        return self._engine.group(request)

    @override
    def check_request(self, request: EngineRequest) -> None:
        self._engine.check_request(request)

    @override
    def run(
        self, rows: Sequence[BatchRow], *, max_new_tokens: int
    ) -> Generator[RunStep, None, None]:
        run = self._engine.run(rows, max_new_tokens=max_new_tokens)
        try:
            yield from self._recorded(run, rows)
        finally:
            run.close()

    @override
    def end_row(self, row: int) -> None:
        self._engine.end_row(row)

    @override
    def close(self) -> None:
        self._engine.close()

    def _recorded(
        self, run: Run, rows: Sequence[BatchRow]
    ) -> Generator[RunStep, None, None]:
        start = self._step
        for told in run:
            self._step += told.num_steps
            for tokens in told.rows:
                if tokens.token_ids:
                    self._note(start, tokens.row, rows[tokens.row].request.request_id)
            yield told

    def _note(self, start: int, row: int, request_id: str) -> None:
        hold = self._holds.get((start, row))
        last_step = self._step - 1
        if hold is not None:
            self._holds[start, row] = attrs.evolve(hold, last_step=last_step)
            return
        self._holds[start, row] = Hold(
            request_id=request_id,
            slot=row,
            first_step=start,
            last_step=last_step,
            prompt_steps=last_step - start + 1,
        )


# ------------------------------------------------------------------------- the drawing

_ROW, _GAP, _HEAD, _LEFT, _MARGIN = 22, 4, 34, 54, 16
_WIDTH = 760
"""Of the whole drawing, in pixels; its height follows from the rows."""

_HUES = (210, 28, 145, 285, 48, 340, 180, 100, 255, 10)
"""Degrees; neighbours in the list are far apart."""

_STYLE = """
.card { fill: #ffffff; stroke: #d0d4da }
text { fill: #1f2328; font: 12px system-ui, sans-serif }
text.title { font-weight: 600 }
text.name { font-size: 11px; text-anchor: middle; fill: #101214 }
.idle { fill: #8b93a0; fill-opacity: .18 }
@media (prefers-color-scheme: dark) {
  .card { fill: #16191d; stroke: #3a4048 }
  text { fill: #e6e8eb }
  text.name { fill: #101214 }
}
"""


def draw(rows: Sequence[tuple[str, Timeline]], *, title: str, description: str) -> str:
    """Return an SVG of timelines below each other, on one scale of steps.

    Args:
        rows: Heading and timeline of each. Steps and occupancy are added to a heading.
        title: What the drawing shows, for who cannot see it too.
        description: What there is to see in it.
    """
    longest = max(timeline.num_steps for _, timeline in rows)
    scale = (_WIDTH - _LEFT - 2 * _MARGIN) / max(longest, 1)
    order = dict.fromkeys(h.request_id for _, each in rows for h in each.holds)
    numbers = {request_id: number for number, request_id in enumerate(order, 1)}
    parts, top = [], _MARGIN
    for heading, timeline in rows:
        parts.append(_draw_one(heading, timeline, top, scale, numbers))
        top += _HEAD + timeline.num_slots * (_ROW + _GAP) + _MARGIN
    body = "\n".join(parts)
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top}" \
role="img" aria-labelledby="slots-title slots-description">
<title id="slots-title">{escape(title)}</title>
<desc id="slots-description">{escape(description)}</desc>
<style>{_STYLE}</style>
<rect class="card" x="0.5" y="0.5" width="{_WIDTH - 1}" height="{top - 1}" rx="8"/>
{body}
</svg>
"""


def _draw_one(
    heading: str, timeline: Timeline, top: int, scale: float, numbers: dict[str, int]
) -> str:
    used = f"{timeline.num_steps} steps, {timeline.occupancy:.0%} of the slots used"
    parts = [_text(_MARGIN, top + 16, f"{heading}: {used}", kind="title")]
    width = timeline.num_steps * scale
    for slot in range(timeline.num_slots):
        y = _top_of(slot, top)
        parts.append(_text(_MARGIN, y + 15, f"slot {slot}"))
        parts.append(_rect(_MARGIN + _LEFT, y, width, 'class="idle"'))
    parts += [
        _draw_hold(hold, _top_of(hold.slot, top), scale, numbers[hold.request_id])
        for hold in timeline.holds
    ]
    return "\n".join(parts)


def _top_of(slot: int, top: int) -> int:
    return top + _HEAD - 8 + slot * (_ROW + _GAP)


def _draw_hold(hold: Hold, y: int, scale: float, number: int) -> str:
    x = _MARGIN + _LEFT + hold.first_step * scale
    width = max(hold.num_steps * scale - 1, 1)
    prompt = min(hold.prompt_steps * scale, width)
    hue = _HUES[(number - 1) % len(_HUES)]
    told = (
        f"request {number}: slot {hold.slot}, steps {hold.first_step + 1} to "
        f"{hold.last_step + 1}"
    )
    parts = [
        f"<g><title>{told}</title>",
        _rect(x, y, width, f'fill="hsl({hue} 65% 68%)"'),
        _rect(x, y, prompt, f'fill="hsl({hue} 60% 42%)"'),
    ]
    if width - prompt >= 9 * len(str(number)):
        middle = x + (width + prompt) / 2
        parts.append(_text(middle, y + 15, str(number), kind="name"))
    return "\n".join([*parts, "</g>"])


def _text(x: float, y: int, text: str, *, kind: str | None = None) -> str:
    marked = f' class="{kind}"' if kind else ""
    return f'<text{marked} x="{x:.1f}" y="{y}">{escape(text)}</text>'


def _rect(x: float, y: int, width: float, look: str) -> str:
    place = f'x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_ROW}"'
    return f'<rect {place} rx="2" {look}/>'
