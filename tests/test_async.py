# SPDX-License-Identifier: Apache-2.0

"""Calls in an event loop on the embedded backend: errors, cancellation, slow readers.

The contract shows that they return what calls outside of a loop return.
"""

from __future__ import annotations

import asyncio

import pytest
from idle import wait_until_idle

from unillm import Generator, SamplingParams
from unillm.errors import InvalidPromptError, RequestCancelledError, RequestsFailedError

GREEDY = SamplingParams(temperature=0, max_tokens=100)
ENDLESS = SamplingParams(temperature=0, max_tokens=None, ignore_eos=True)
COUNT = "Count from 3 to 9:"


@pytest.fixture(scope="module")
def generator():
    with Generator("unillm/tiny", max_num_seqs=4) as generator:
        yield generator


def test_a_handle_can_be_awaited(generator):
    async def run():
        return await generator.submit(COUNT, GREEDY)

    assert asyncio.run(run()).text == "3 4 5 6 7 8 9"


def test_agenerate_raises_the_errors_of_generate(generator):
    with pytest.raises(InvalidPromptError):
        asyncio.run(generator.agenerate(""))
    with pytest.raises(RequestsFailedError, match="1 of 2"):
        asyncio.run(generator.agenerate([COUNT, ""], GREEDY))


def test_the_loop_goes_on_while_the_engine_works(generator):
    async def run():
        ticks = 0
        task = asyncio.create_task(
            generator.agenerate([COUNT] * 20, SamplingParams(max_tokens=50, seed=1))
        )
        while not task.done():
            await asyncio.sleep(0.001)
            ticks += 1
        return ticks, await task

    ticks, outputs = asyncio.run(run())

    assert ticks > 5
    assert len(outputs) == 20


def test_cancelling_the_task_cancels_its_requests(generator):
    async def run():
        task = asyncio.create_task(generator.agenerate([COUNT] * 30, ENDLESS))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())

    wait_until_idle(generator)


def test_many_tasks_cancelled_at_random_leave_nothing_behind(generator):
    async def one(number: int) -> str:
        handle = generator.submit(f"Count from {number % 9} to 40:", GREEDY)
        if number % 2:
            await asyncio.sleep(0.002 * (number % 7))
            handle.cancel()
        try:
            return (await handle).text
        except RequestCancelledError:
            return "cancelled"

    async def run():
        return await asyncio.gather(*[one(number) for number in range(200)])

    before = generator.stats()
    texts = asyncio.run(run())

    wait_until_idle(generator)
    after = generator.stats()
    ended = sum(after[key] - before[key] for key in ("finished", "cancelled", "failed"))
    assert len(texts) == ended == 200
    assert "cancelled" in texts
    expected = {
        output.text
        for output in generator.generate(
            [f"Count from {n} to 40:" for n in range(9)], GREEDY
        )
    }
    assert set(texts) - {"cancelled"} <= expected


def test_a_slow_reader_gets_fewer_and_longer_deltas(generator):
    async def run():
        deltas = []
        async for delta in generator.astream("Count from 1 to 40:", GREEDY):
            deltas.append(delta)
            await asyncio.sleep(0.05)
        return deltas

    deltas = asyncio.run(run())

    [expected] = generator.generate("Count from 1 to 40:", GREEDY)
    assert "".join(delta.text for delta in deltas) == expected.text
    assert max(len(delta.token_ids) for delta in deltas) > 1
