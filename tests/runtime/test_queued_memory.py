# SPDX-License-Identifier: Apache-2.0

"""Memory of requests that wait. benchmarks/queued.py measures a million of them."""

from __future__ import annotations

import gc
import tracemalloc

import pytest

from unillm import SamplingParams
from unillm.runtime.calls import ListCall
from unillm.runtime.cut_notice import CutNotice
from unillm.scheduling.runs import RunScheduler
from unillm.scheduling.slots import SlotScheduler
from unillm.testing.batches import ScriptedBatchEngine
from unillm.testing.scripted import ScriptedEngine, ScriptedSlotEngine

COUNT = 1000
PROMPT = tuple(range(16))
PARAMS = SamplingParams(max_tokens=2, ignore_eos=True, seed=0)


def script(request, position):
    return 7


def run_scheduler(engine):
    return RunScheduler(engine, clock=engine.clock)


@pytest.fixture(
    params=[
        pytest.param((ScriptedSlotEngine, SlotScheduler), id="slots"),
        pytest.param((ScriptedBatchEngine, run_scheduler), id="runs"),
        pytest.param((ScriptedEngine, lambda engine: engine), id="continuous"),
    ]
)
def driver(request, drive):
    """Return a driver whose turns the test takes, and the list of its engine's calls."""
    make, create = request.param
    engine = make(script)
    driver = drive(
        engine,
        create,
        max_queued_requests=COUNT,
        max_queued_tokens=COUNT * len(PROMPT),
        threaded=False,
    )
    driver.submit(request.getfixturevalue("handle_for")(), block=False)
    while driver.stats()["live"] or driver.stats()["queued"]:
        driver.turn(block=False)
    return driver, engine.calls


@pytest.fixture
def traced():
    tracemalloc.start()
    yield
    tracemalloc.stop()


def traced_bytes(*records):
    for record in records:
        record.clear()
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


@pytest.mark.usefixtures("traced")
def test_a_waiting_request_takes_less_than_two_kilobytes_and_leaves_nothing(
    driver, maker_for
):
    driver, calls = driver
    maker = maker_for()
    before = traced_bytes(calls)
    handles = []
    for make in maker.makers([PROMPT] * COUNT, PARAMS, None, 0, None):
        handles.append(make())
        driver.submit(handles[-1], block=False)
    driver.turn(block=False)
    waiting = traced_bytes(calls)

    while driver.stats()["live"]:
        driver.turn(block=False)
    assert all(len(handle.result().token_ids) == 2 for handle in handles)
    handles.clear()
    del make

    assert (waiting - before) / COUNT < 2000
    assert (traced_bytes(calls) - before) / COUNT < 4


@pytest.mark.usefixtures("traced")
def test_cancelled_requests_leave_nothing(driver, maker_for):
    driver, calls = driver
    maker = maker_for()
    before = traced_bytes(calls)
    handles = [maker.make(PROMPT, PARAMS) for _ in range(COUNT)]
    for handle in handles:
        driver.submit(handle, block=False)
    driver.turn(block=False)

    for handle in handles:
        handle.cancel()
    driver.turn(block=False)
    handles.clear()
    del handle

    assert (traced_bytes(calls) - before) / COUNT < 4


def test_a_list_call_frees_each_request_once_its_outcome_is_read(driver, maker_for):
    driver, _ = driver
    live = []

    class Bar:
        def __init__(self, **_):
            pass

        def update(self, _):
            live.append(len(call._started))

        def close(self):
            pass

    def submit(handle):
        driver.submit(handle, block=False)
        while driver.stats()["live"] or driver.stats()["queued"]:
            driver.turn(block=False)

    call = ListCall(
        maker_for().makers([PROMPT] * 3, PARAMS, None, 0, None),
        submit=submit,
        notice=CutNotice(256, None),
    )

    assert len(call.run("raise", use_tqdm=Bar)) == 3
    assert live == [3, 2, 1]
