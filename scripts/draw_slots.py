# SPDX-License-Identifier: Apache-2.0

"""Draw the timeline of slots of a real run of the bundled model.

    python scripts/draw_slots.py docs/explanation/slots.svg

The requests are greedy, so every recording is the same. The script computes the static
batches beside it from the recorded lengths; it does not run them.
"""

from __future__ import annotations

import sys
from pathlib import Path

from timeline_svg import draw, static_batches

from unillm import Generator, SamplingParams
from unillm.embedded.loading import load_engine
from unillm.engines.base import EngineRequest
from unillm.model.find import find_model
from unillm.scheduling.slots import SlotScheduler
from unillm.testing.timeline import RecordingSlotEngine, Timeline

MODEL = "unillm/tiny"
NUM_SLOTS = 4
PROMPTS = [
    *("Count from 1 to 30:", "Add 17 and 25:", "Spell the word apple:"),
    *("Count from 3 to 9:", "Add 20 and 22:", "Count from 10 to 22:"),
    *("Repeat: one two three:", "Count from 1 to 3:", "Count from 5 to 29:"),
    *("List the days from Tuesday:", "Add 1 and 2:", "Count from 2 to 17:"),
    *("Spell the word cat:", "Count from 6 to 12:", "Add 30 and 12:"),
    "Count from 4 to 14:",
]


def record() -> Timeline:
    """Record the prompts in the slots of the bundled model."""
    params = SamplingParams(temperature=0, max_tokens=100)
    with Generator(MODEL) as generator:
        stop_token_ids = generator.eos_token_ids
        ids = [generator.get_tokenizer()(prompt)["input_ids"] for prompt in PROMPTS]
    engine = RecordingSlotEngine(load_engine(find_model(MODEL), max_num_seqs=NUM_SLOTS))
    scheduler = SlotScheduler(engine)
    for number, prompt in enumerate(ids):
        scheduler.add_request(
            EngineRequest(
                request_id=str(number),
                prompt_token_ids=tuple(prompt),
                params=params,
                stop_token_ids=stop_token_ids,
                max_new_tokens=100,
                seed=0,
                arrival=number,
            )
        )
    while scheduler.has_unfinished():
        scheduler.step()
    scheduler.close()
    return engine.timeline()


def drawing() -> str:
    """Return the SVG."""
    slots = record()
    static = static_batches(slots)
    return draw(
        [("Static batches (computed)", static), ("Refilled slots (recorded)", slots)],
        title=f"{len(PROMPTS)} requests in {NUM_SLOTS} slots",
        description=(
            f"Static batches take {static.num_steps} steps, because the slots of short "
            "requests stand idle until the longest of their batch has ended. Refilled "
            f"slots take {slots.num_steps} steps for the same requests, because a slot "
            "gets the next request in the step after its last one ended. The dark "
            "beginning of a bar is the prompt."
        ),
    )


if __name__ == "__main__":
    [path] = sys.argv[1:]
    Path(path).write_text(drawing(), encoding="utf-8")
