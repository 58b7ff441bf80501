# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest
from strategies import Job, script_of

from unillm.errors import InvalidParameterError
from unillm.scheduling.slots import SlotScheduler
from unillm.testing.scripted import ScriptedSlotEngine
from unillm.testing.timeline import RecordingSlotEngine, Timeline


def record(*jobs: Job, slots: int = 2, budget: int = 100, steps: int = 100) -> Timeline:
    """Return the recording of so many steps."""
    engine = RecordingSlotEngine(
        ScriptedSlotEngine(script_of(list(jobs)), num_slots=slots)
    )
    scheduler = SlotScheduler(engine, max_num_batched_tokens=budget)
    for each in jobs:
        scheduler.add_request(each.request)
    for _ in range(steps):
        scheduler.step()
    return engine.timeline()


def spans(timeline: Timeline) -> list[tuple[str, int, int, int]]:
    return [(h.request_id, h.slot, h.first_step, h.last_step) for h in timeline.holds]


def test_a_refilled_slot_is_held_from_the_step_after():
    timeline = record(Job(0, natural_length=2), Job(1, natural_length=6), Job(2))

    # The first step yields two tokens: one of the prefill, one of the decode.
    assert spans(timeline) == [("r0", 0, 0, 0), ("r1", 1, 0, 4), ("r2", 0, 1, 2)]
    assert timeline.num_steps == 5
    assert timeline.occupancy == 8 / 10


def test_a_chunked_prompt_has_several_prompt_steps():
    timeline = record(Job(0, natural_length=9), Job(1, prompt_length=10), budget=4)

    long = timeline.holds[1]
    assert (long.request_id, long.prompt_steps, long.num_steps) == ("r1", 3, 3 + 1)


def test_a_running_request_ends_at_its_last_token():
    timeline = record(Job(0, natural_length=50), slots=1, steps=3)

    assert spans(timeline) == [("r0", 0, 0, 2)]


def test_recording_changes_nothing():
    jobs = [Job(n, natural_length=n % 5 + 1) for n in range(12)]
    bare = ScriptedSlotEngine(script_of(jobs), num_slots=3)
    inner = ScriptedSlotEngine(script_of(jobs), num_slots=3)

    for engine in (bare, RecordingSlotEngine(inner)):
        scheduler = SlotScheduler(engine)
        for each in jobs:
            scheduler.add_request(each.request)
        while scheduler.has_unfinished():
            scheduler.step()
        scheduler.close()

    assert inner.calls == bare.calls


class Picky(ScriptedSlotEngine):
    splits_prompts = False
    max_loras = 1

    def __init__(self, script):
        super().__init__(script, shortest_prefix=16)

    def check_request(self, request):
        raise InvalidParameterError("refused", parameter="prompt", value=request)


def test_a_recorder_answers_for_its_engine():
    recorder = RecordingSlotEngine(Picky(script_of([])))

    assert (recorder.splits_prompts, recorder.max_loras) == (False, 1)
    assert recorder.shortest_prefix == 16
    with pytest.raises(InvalidParameterError, match="refused"):
        recorder.check_request(Job(0).request)
