# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import importlib.util
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from strategies import Job, script_of

from unillm.scheduling.slots import SlotScheduler
from unillm.testing.scripted import ScriptedSlotEngine
from unillm.testing.timeline import Hold, RecordingSlotEngine, Timeline, draw

ROOT = Path(__file__).parents[2]
SVG = "{http://www.w3.org/2000/svg}"


def job(number: int, **fields) -> Job:
    given = {
        "arrives_at": 0,
        "prompt_length": 4,
        "natural_length": 3,
        "max_new_tokens": 100,
        "priority": 0,
        "aborted_at": None,
    }
    return Job(number=number, **(given | fields))


def record(*jobs: Job, slots: int = 2, budget: int = 100) -> Timeline:
    inner = ScriptedSlotEngine(script_of(list(jobs)), num_slots=slots)
    engine = RecordingSlotEngine(inner)
    scheduler = SlotScheduler(engine, max_num_batched_tokens=budget)
    for each in jobs:
        scheduler.add_request(each.request)
    while scheduler.has_unfinished():
        scheduler.step()
    return engine.timeline()


def spans(timeline: Timeline) -> list[tuple[str, int, int, int]]:
    return [(h.request_id, h.slot, h.first_step, h.last_step) for h in timeline.holds]


def test_a_refilled_slot_is_held_from_the_step_after():
    timeline = record(job(0, natural_length=2), job(1, natural_length=6), job(2))

    # The first step gives two tokens: one of the prompt, one decoded.
    assert [("r0", 0, 0, 0), ("r1", 1, 0, 4), ("r2", 0, 1, 2)] == spans(timeline)
    assert 5 == timeline.num_steps
    assert 8 / 10 == timeline.occupancy


def test_a_prompt_in_chunks_is_a_longer_beginning():
    timeline = record(
        job(0, natural_length=9), job(1, prompt_length=10), budget=4, slots=2
    )

    long = timeline.holds[1]
    assert ("r1", 3) == (long.request_id, long.prompt_steps)
    assert long.num_steps == 3 + 1


def test_what_still_runs_ends_at_its_last_token():
    engine = RecordingSlotEngine(
        ScriptedSlotEngine(script_of([job(0, natural_length=50)]), num_slots=1)
    )
    scheduler = SlotScheduler(engine)
    scheduler.add_request(job(0, natural_length=50).request)

    for _ in range(3):
        scheduler.step()

    assert [("r0", 0, 0, 2)] == spans(engine.timeline())


def test_recording_changes_nothing():
    jobs = [job(n, natural_length=n % 5 + 1) for n in range(12)]
    bare = ScriptedSlotEngine(script_of(jobs), num_slots=3)
    inner = ScriptedSlotEngine(script_of(jobs), num_slots=3)

    for engine in (bare, RecordingSlotEngine(inner)):
        scheduler = SlotScheduler(engine)
        for each in jobs:
            scheduler.add_request(each.request)
        while scheduler.has_unfinished():
            scheduler.step()
        scheduler.close()

    assert bare.calls == inner.calls


def test_static_batches_wait_for_their_longest():
    timeline = record(
        *(job(n, natural_length=length) for n, length in enumerate([2, 7, 2, 2, 3]))
    )

    static = timeline.as_static_batches()

    assert [
        ("r0", 0, 0, 0),
        ("r1", 1, 0, 5),
        ("r2", 0, 6, 6),
        ("r3", 1, 6, 6),
        ("r4", 0, 7, 8),
    ] == spans(static)
    assert static.num_steps > timeline.num_steps


def test_an_empty_run_can_be_drawn():
    empty = Timeline(num_slots=2, holds=())

    assert 0 == empty.occupancy == empty.as_static_batches().num_steps
    assert draw([("none", empty)], title="t", description="d").startswith("<svg")


def test_a_drawing_is_xml_that_says_what_it_shows():
    holds = [
        Hold(request_id=f"<{n}>", slot=n, first_step=0, last_step=9, prompt_steps=1)
        for n in range(2)
    ]
    timeline = Timeline(num_slots=2, holds=tuple(holds))

    root = ET.fromstring(
        draw([("A & B", timeline)], title="1 < 2", description="as said")
    )

    assert "img" == root.get("role")
    named = root.get("aria-labelledby").split()
    assert ["1 < 2", "as said"] == [
        each.text for each in root if each.get("id") in named
    ]
    heading = root.find(f"{SVG}text[@class='title']")
    assert "A & B: 10 steps, 100% of the slots used" == heading.text
    told = [group.find(f"{SVG}title").text for group in root.iter(f"{SVG}g")]
    assert "request 2: slot 1, steps 1 to 10" == told[1]
    assert "prefers-color-scheme: dark" in root.find(f"{SVG}style").text


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location(
        "draw_slots", ROOT / "scripts/draw_slots.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_drawing_on_the_page_is_what_a_run_of_today_gives(script):
    """If not: python scripts/draw_slots.py docs/explanation/slots.svg."""
    assert script.drawing() == (ROOT / "docs/explanation/slots.svg").read_text("utf-8")


def test_refilled_slots_take_fewer_steps_than_static_batches(script):
    slots = script.record()

    assert slots.num_steps < 0.8 * slots.as_static_batches().num_steps
    assert len(script.PROMPTS) == len(slots.holds)
