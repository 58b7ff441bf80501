# SPDX-License-Identifier: Apache-2.0

"""Many streams at once on the embedded backend: no token is lost, doubled or kept."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import time
import tracemalloc
from contextlib import aclosing
from pathlib import Path

import attrs
import pytest
from idle import wait_until_idle

from unillm import Generator, SamplingParams

STREAMS = 64
GREEDY = SamplingParams(temperature=0, max_tokens=60)
PROMPTS = [
    *(f"Count from {low} to {low + 9}:" for low in range(1, 11)),
    *(f"Add {one} and {11 * one}:" for one in range(1, 9)),
    *(f"Spell the word {word}:" for word in ("apple", "river", "stone", "cloud")),
    "Count from 1 to 20:",
    "Say the days of the week from Monday:",
]


@pytest.fixture(scope="module")
def generator():
    with Generator("unillm/tiny", backend="transformers", max_num_seqs=8) as generator:
        yield generator


@pytest.fixture(scope="module")
def alone(generator):
    """Return the output of each prompt when nothing else runs."""
    return {prompt: generator.generate(prompt, GREEDY)[0] for prompt in PROMPTS}


@attrs.define
class Reading:
    """The deltas of one reader, joined."""

    prompt: str
    token_ids: list[int] = attrs.field(factory=list)
    text: str = ""
    finish_reason: str | None = None

    async def read(self, generator, rng: random.Random) -> None:
        """Read to the end, or leave after some deltas; now and then slowly."""
        leave_after = rng.choice([None, None, 0, 1, 2, 5])
        pause = rng.choice([0, 0, 0, 0.003, 0.02])
        async with aclosing(generator.astream(self.prompt, GREEDY)) as deltas:
            async for delta in deltas:
                self.token_ids += delta.token_ids
                self.text += delta.text
                self.finish_reason = delta.finish_reason
                if leave_after == 0:
                    return
                if leave_after is not None:
                    leave_after -= 1
                if pause:
                    await asyncio.sleep(pause)

    def check(self, alone) -> None:
        expected = alone[self.prompt]
        if self.finish_reason is not None:
            assert self.token_ids == expected.token_ids
            assert self.text == expected.text
            assert self.finish_reason == expected.finish_reason
        assert self.token_ids == expected.token_ids[: len(self.token_ids)]
        assert expected.text.startswith(self.text)


async def run_round(generator, seed: int) -> list[Reading]:
    """64 readers at once; some tasks are cancelled from outside, at any moment."""
    rng = random.Random(seed)
    readings = [Reading(rng.choice(PROMPTS)) for _ in range(STREAMS)]
    tasks = [
        asyncio.create_task(each.read(generator, random.Random(rng.random())))
        for each in readings
    ]
    for task in rng.sample(tasks, STREAMS // 4):
        await asyncio.sleep(rng.choice([0, 0, 0.002, 0.01]))
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return readings


@pytest.mark.parametrize("seed", range(4))
def test_no_token_is_lost_or_doubled(generator, alone, seed):
    readings = asyncio.run(run_round(generator, seed))

    wait_until_idle(generator)
    for reading in readings:
        reading.check(alone)
    whole = sum(reading.finish_reason is not None for reading in readings)
    assert 5 < whole < STREAMS - 5  # some were read to the end, some were left


def test_many_loops_in_many_threads_share_a_generator(generator, alone):
    readings: list[Reading] = []

    def use(seed: int) -> None:
        readings.extend(asyncio.run(run_round(generator, seed)))

    threads = [threading.Thread(target=use, args=(seed,)) for seed in range(10, 14)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)

    wait_until_idle(generator)
    assert len(readings) == 4 * STREAMS
    for reading in readings:
        reading.check(alone)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_memory_is_flat_over_rounds(generator, alone):
    """128 more streams, and then 128 more, leave no memory."""
    for seed in range(2):
        asyncio.run(run_round(generator, seed))
    wait_until_idle(generator)
    grown, resident = [], resident_bytes()
    for first in (20, 22):
        gc.collect()
        tracemalloc.start()
        try:
            for seed in range(first, first + 2):
                asyncio.run(run_round(generator, seed))
            wait_until_idle(generator)
            gc.collect()
            grown.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()

    # A kept request would be some kilobytes, 128 of them a quarter of a megabyte, each
    # time. A table of the interpreter that happens to grow does so once.
    assert min(grown) < 128 * 1024
    assert resident_bytes() - resident < 32 * 2**20


def test_a_busy_loop_gets_one_callback(generator):
    """However many tokens arrive meanwhile, the reader finds them in the handle."""
    endless = SamplingParams(temperature=0, max_tokens=400, ignore_eos=True)

    async def read():
        loop = asyncio.get_running_loop()
        token_ids = []
        async for delta in generator.astream("Count from 1 to 9:", endless):
            token_ids += delta.token_ids
            before = len(loop._ready)
            time.sleep(0.3)  # noqa: ASYNC251 - holds up the loop on purpose
            waiting = len(loop._ready) - before
            assert waiting <= 1, waiting
        return token_ids

    token_ids = asyncio.run(read())

    [expected] = generator.generate("Count from 1 to 9:", endless)
    assert token_ids == expected.token_ids
