# SPDX-License-Identifier: Apache-2.0

"""Drawings of timelines and terminals: the SVG itself, and those on the pages."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import draw_slots
import draw_terminal
import pytest
from timeline_svg import draw, static_batches

from unillm.testing.timeline import Hold, Timeline

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/explanation/slots.svg"
SVG = "{http://www.w3.org/2000/svg}"


def hold(number: int, *, slot: int = 0, first_step: int = 0, num_steps: int = 1):
    return Hold(
        request_id=f"<{number}>",
        slot=slot,
        first_step=first_step,
        last_step=first_step + num_steps - 1,
        prompt_steps=1,
    )


@pytest.fixture(scope="module")
def slots() -> Timeline:
    return draw_slots.record()


def test_static_batches_wait_for_their_longest():
    lengths = [1, 6, 1, 1, 2]
    holds = [hold(n, num_steps=length) for n, length in enumerate(lengths)]

    static = static_batches(Timeline(num_slots=2, holds=tuple(holds)))

    assert [(each.slot, each.first_step, each.last_step) for each in static.holds] == [
        (0, 0, 0),
        (1, 0, 5),
        (0, 6, 6),
        (1, 6, 6),
        (0, 7, 8),
    ]


def test_an_empty_timeline_has_a_drawing():
    empty = Timeline(num_slots=2, holds=())

    assert empty.occupancy == static_batches(empty).num_steps == 0
    assert draw([("none", empty)], title="t", description="d").startswith("<svg")


def test_a_drawing_is_xml_with_a_title_a_description_and_labels():
    holds = (hold(0, num_steps=10), hold(1, slot=1, num_steps=10))
    timeline = Timeline(num_slots=2, holds=holds)

    root = ET.fromstring(
        draw([("A & B", timeline)], title="1 < 2", description="as said")
    )

    assert root.get("role") == "img"
    named = root.get("aria-labelledby").split()
    texts = [each.text for each in root if each.get("id") in named]
    assert texts == ["1 < 2", "as said"]
    heading = root.find(f"{SVG}text[@class='title']")
    assert heading.text == "A & B: 10 steps, 100% of the slots used"
    labels = [group.find(f"{SVG}title").text for group in root.iter(f"{SVG}g")]
    assert labels[1] == "request 2: slot 1, steps 1 to 10"
    assert "prefers-color-scheme: dark" in root.find(f"{SVG}style").text


def test_the_drawing_on_the_page_equals_a_new_recording():
    """To renew it: python scripts/draw_slots.py docs/explanation/slots.svg."""
    assert draw_slots.drawing() == PAGE.read_text("utf-8")


def test_refilled_slots_take_fewer_steps_than_static_batches(slots):
    assert slots.num_steps < 0.8 * static_batches(slots).num_steps
    assert len(slots.holds) == len(draw_slots.PROMPTS)


def terminal_text(svg):
    return [each.text or "" for each in ET.fromstring(svg).iter(f"{SVG}text")]


def test_a_terminal_shows_the_command_and_its_whole_output():
    shown = draw_terminal.record(r"printf '1 < 2\n\nagree\n'")

    svg = draw_terminal.draw([shown], title="A & B", description="as said")

    assert terminal_text(svg) == ["$", shown.command, "1 < 2", "", "agree"]
    style = ET.fromstring(svg).find(f"{SVG}style").text
    assert "prefers-reduced-motion: reduce" in style


def test_the_terminal_of_the_readme_has_the_text_that_screen_readers_read():
    """To renew it: scripts/draw_terminal.py names the command."""
    svg = (ROOT / "docs/compare.svg").read_text("utf-8")

    described = ET.fromstring(svg).find(f"{SVG}desc").text

    assert described.replace("$ ", "$\n").split("\n") == terminal_text(svg)
    assert "agree: 12 equal" in described
