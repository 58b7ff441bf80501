# SPDX-License-Identifier: Apache-2.0

"""Draw timelines of rows of real runs of the bundled model on CTranslate2.

    python scripts/draw_runs.py docs/explanation

writes two drawings. In ``runs-lengths.svg`` sixteen requests of two lengths wait for
four rows. In ``runs.svg`` five requests of 160 tokens begin in eight rows, and three
more arrive a moment later. The scheduler's clock counts its steps, so every drawing is
the same.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs
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


@attrs.frozen
class Asked:
    """A prompt, its `max_tokens`, and whether an EOS token may end it sooner."""

    prompt: str
    max_tokens: int
    ends: bool = False


FIRST = [Asked(f"Count from 1 to {n}:", 160) for n in (30, 29, 28, 27, 26)]
LATER = [
    Asked(prompt, 160, ends=True)
    for prompt in ("Count from 3 to 9:", "Spell the word apple:", "Add 17 and 25:")
]
LENGTHS = [Asked(f"Count from 1 to {n}:", 20 if n % 4 else 120) for n in range(10, 26)]


def record(waves: Sequence[Sequence[Asked]], *, rows: int, after: int = 0) -> Timeline:
    """Record requests that arrive in waves.

    Args:
        waves: The requests, in the order of their arrival.
        rows: Rows of a batch.
        after: Steps after which the second wave arrives; 0 if each waits until the last
            one has ended, as in static batches.
    """
    with Generator(MODEL) as generator:
        stop_token_ids = generator.eos_token_ids
        tokenizer = generator.get_tokenizer()
    config = EngineConfig.create(
        model=MODEL,
        path=find_model(MODEL),
        backend="ctranslate2",
        dtype="float32",
        max_num_seqs=rows,
    )
    build = PluginRegistry().load("ctranslate2").build
    engine = RecordingBatchEngine(load_engine(config, build=build))
    ticks = itertools.count()
    scheduler = RunScheduler(engine, clock=lambda: float(next(ticks)))
    number = itertools.count()
    waiting = [
        [
            EngineRequest(
                request_id=str(arrival := next(number)),
                prompt_token_ids=tuple(tokenizer(each.prompt)["input_ids"]),
                params=SamplingParams(
                    temperature=0, max_tokens=each.max_tokens, ignore_eos=True
                ),
                stop_token_ids=stop_token_ids if each.ends else frozenset(),
                max_new_tokens=each.max_tokens,
                seed=0,
                arrival=arrival,
            )
            for each in wave
        ]
        for wave in waves
    ]
    steps = 0
    while waiting or scheduler.has_unfinished():
        is_time = steps in (0, after) if after else not scheduler.has_unfinished()
        if waiting and is_time:
            for request in waiting.pop(0):
                scheduler.add_request(request)
        scheduler.step()
        steps += 1
    scheduler.close()
    return engine.timeline()


def lengths() -> str:
    """Draw requests of two lengths, whose `max_tokens` the scheduler knows."""
    batches = [LENGTHS[first : first + 4] for first in range(0, len(LENGTHS), 4)]
    static = record(batches, rows=4)
    runs = record([LENGTHS], rows=4)
    return draw(
        [("Static batches (recorded)", static), ("Runs (recorded)", runs)],
        title="Sixteen requests of two lengths in four rows",
        description=(
            f"Static batches in the order of arrival take {static.num_steps} steps, "
            "because each waits for its one long request. Runs of requests that end "
            f"together take {runs.num_steps} steps."
        ),
    )


def later() -> str:
    """Draw requests that arrive while a batch runs."""
    static = record([FIRST, LATER], rows=8)
    runs = record([FIRST, LATER], rows=8, after=3)
    return draw(
        [("Static batches (recorded)", static), ("Runs (recorded)", runs)],
        title="Three requests that come later, in a batch of eight",
        description=(
            "In static batches the three wait until the first five have ended. In runs "
            "the batch is stopped, and begins again with all eight: the dark beginning "
            "of a bar are the steps until the run gives its first token."
        ),
    )


DRAWINGS: dict[str, Callable[[], str]] = {
    "runs-lengths.svg": lengths,
    "runs.svg": later,
}


if __name__ == "__main__":
    [folder] = sys.argv[1:]
    for name, drawing in DRAWINGS.items():
        Path(folder, name).write_text(drawing(), encoding="utf-8")
