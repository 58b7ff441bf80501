# SPDX-License-Identifier: Apache-2.0

"""Draw timelines of slots as an SVG: ``draw_slots.py`` and ``draw_runs.py`` use it."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

import attrs

from unillm.testing.timeline import Hold, Timeline

_ROW, _GAP, _HEAD, _LEFT, _MARGIN = 22, 4, 34, 54, 16
_WIDTH = 760
"""Width of the drawing in pixels; its height follows from the rows."""

_HUES = (210, 28, 145, 285, 48, 340, 180, 100, 255, 10)
"""Hues in degrees; neighbours in the list are far apart."""

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


def static_batches(timeline: Timeline) -> Timeline:
    """Compute the timeline that static batches of the same requests would have.

    The requests keep their order and their numbers of steps. Each batch has as many
    requests as there are slots, and starts when the whole batch before it has ended.
    """
    holds: list[Hold] = []
    start = 0
    for first in range(0, len(timeline.holds), timeline.num_slots):
        batch = timeline.holds[first : first + timeline.num_slots]
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
    return Timeline(num_slots=timeline.num_slots, holds=tuple(holds))


def draw(rows: Sequence[tuple[str, Timeline]], *, title: str, description: str) -> str:
    """Return an SVG of timelines below each other, on one scale of steps.

    Args:
        rows: Heading and timeline of each. The drawing adds the number of steps and the
            occupancy to each heading.
        title: Name of the drawing; screen readers read it.
        description: The facts that the drawing shows; screen readers read it.
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
    label = (
        f"request {number}: slot {hold.slot}, steps {hold.first_step + 1} to "
        f"{hold.last_step + 1}"
    )
    parts = [
        f"<g><title>{label}</title>",
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
    box = f'x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_ROW}"'
    return f'<rect {box} rx="2" {look}/>'
