# SPDX-License-Identifier: Apache-2.0

"""Draw the timeline of rows of a real run of the bundled model on CTranslate2.

    python scripts/draw_runs.py docs/explanation/runs.svg

Five requests of 160 tokens begin in eight rows, and three more arrive a moment later.
The scheduler's clock counts its steps, so every drawing is the same.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

from timeline_svg import draw
from unillm_ctranslate2._loading import load_engine

from unillm import Generator, SamplingParams
from unillm.config import EngineConfig
from unillm.engines.base import EngineRequest
from unillm.model.find import find_model
from unillm.plugins import PluginRegistry
from unillm.scheduling.runs import RunScheduler
from unillm.testing.timeline import RecordingBatchEngine, Timeline

MODEL = "unillm/tiny"
FIRST = [f"Count from 1 to {n}:" for n in (30, 29, 28, 27, 26)]
LATER = ["Count from 3 to 9:", "Spell the word apple:", "Add 17 and 25:"]


def record(*, later_after: int | None) -> Timeline:
    """Record the prompts.

    Args:
        later_after: Steps after which the later requests arrive; `None` when the
            first ones have ended.
    """
    params = SamplingParams(temperature=0, max_tokens=160, ignore_eos=True)
    with Generator(MODEL) as generator:
        stop_token_ids = generator.eos_token_ids
        tokenizer = generator.get_tokenizer()
    config = EngineConfig.create(
        model=MODEL,
        path=find_model(MODEL),
        backend="ctranslate2",
        dtype="float32",
        max_num_seqs=8,
    )
    build = PluginRegistry().load("ctranslate2").build
    engine = RecordingBatchEngine(load_engine(config, build=build))
    ticks = itertools.count()
    scheduler = RunScheduler(engine, clock=lambda: float(next(ticks)))
    requests = [
        EngineRequest(
            request_id=str(number),
            prompt_token_ids=tuple(tokenizer(prompt)["input_ids"]),
            params=params,
            stop_token_ids=frozenset() if number < len(FIRST) else stop_token_ids,
            max_new_tokens=160,
            seed=0,
            arrival=number,
        )
        for number, prompt in enumerate(FIRST + LATER)
    ]
    for request in requests[: len(FIRST)]:
        scheduler.add_request(request)
    steps = 0
    waiting = requests[len(FIRST) :]
    while scheduler.has_unfinished() or waiting:
        if waiting and (
            steps == later_after if later_after else not scheduler.has_unfinished()
        ):
            for request in waiting:
                scheduler.add_request(request)
            waiting = []
        scheduler.step()
        steps += 1
    scheduler.close()
    return engine.timeline()


def drawing() -> str:
    """Return the SVG."""
    static = record(later_after=None)
    runs = record(later_after=3)
    return draw(
        [("Static batches (recorded)", static), ("Runs (recorded)", runs)],
        title="Three requests that come later, in a batch of eight",
        description=(
            "In static batches the three wait until the first five have ended. In runs "
            "the batch is stopped, and begins again with all eight: the dark beginning "
            "of a bar are the steps until the run gives its first token."
        ),
    )


if __name__ == "__main__":
    [path] = sys.argv[1:]
    Path(path).write_text(drawing(), encoding="utf-8")
