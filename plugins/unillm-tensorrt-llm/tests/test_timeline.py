# SPDX-License-Identifier: Apache-2.0

"""Late requests in the rows of ``ModelRunner``'s static batches."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from timeline_svg import draw
from unillm_tensorrt_llm import TensorRTLLMBackend, _opening

from unillm import SamplingParams
from unillm.backend import EngineConfig, EngineRequest, RunScheduler
from unillm.testing.timeline import RecordingBatchEngine

PAGE = Path(__file__).parents[3] / "docs/how-to/tensorrt-llm.svg"
LENGTHS = [120, 118, 116, 114, 112, 30, 25, 20, 30, 25, 20]
FIRST = range(5)
LATE = {3: range(5, 8), 45: range(8, 11)}
"""Steps of the scheduler, and the requests that arrive after them."""


@pytest.fixture
def record(install, engine_at, monkeypatch):
    """Run the requests in a batch of eight and return the record."""
    install("0.21")
    path = engine_at(max_batch_size=8, inflight=False)
    config = EngineConfig.create(model="engine", path=path, backend="tensorrt-llm")

    def record(*, refilled):
        """Add late requests on arrival; without *refilled*, to an idle engine."""
        ticks = itertools.count()
        recorders = []

        def scheduler(engine, *, clock):
            recorders.append(RecordingBatchEngine(engine))
            return RunScheduler(recorders[0], clock=lambda: float(next(ticks)))

        monkeypatch.setattr(_opening, "RunScheduler", scheduler)
        late = dict(LATE)
        with TensorRTLLMBackend().create_engine(config) as engine:
            for number in FIRST:
                engine.add_request(request(number))
            for steps in itertools.count(1):
                if engine.has_unfinished():
                    engine.step()
                elif not late:
                    return recorders[0].timeline()
                is_idle = not engine.has_unfinished()
                due = [when for when in late if is_idle or (refilled and when == steps)]
                for number in [number for when in due for number in late.pop(when)]:
                    engine.add_request(request(number))
        return None

    return record


def request(number):
    return EngineRequest(
        request_id=str(number + 1),
        prompt_token_ids=tuple(range(40, 60 + number)),
        params=SamplingParams(temperature=0, ignore_eos=True),
        stop_token_ids=frozenset(),
        max_new_tokens=LENGTHS[number],
        seed=0,
        arrival=number,
    )


def holds_of(timeline, number):
    return [hold for hold in timeline.holds if hold.request_id == str(number + 1)]


def test_late_requests_fill_the_rows_that_five_requests_leave_free(record):
    refilled = record(refilled=True)

    for came, numbers in LATE.items():
        for number in numbers:
            [hold] = holds_of(refilled, number)
            assert came <= hold.first_step <= came + 3
            assert hold.slot >= len(FIRST)  # beside the five running ones


def test_a_refill_loses_no_token_and_adds_no_step(record):
    """A stop costs a prefill of the five unfinished requests, and no decode step."""
    refilled, static = record(refilled=True), record(refilled=False)

    for number, length in enumerate(LENGTHS):
        steps = [hold.num_steps for hold in holds_of(refilled, number)]
        assert length == sum(steps)
    assert (refilled.num_steps, static.num_steps) == (120, 150)
    assert refilled.occupancy > static.occupancy


def test_the_drawing_of_the_page_is_up_to_date(record, tmp_path):
    drawing = draw(
        [
            ("Static batches (recorded)", record(refilled=False)),
            ("Runs (recorded)", record(refilled=True)),
        ],
        title="Six requests that come later, in a batch of eight of ModelRunner",
        description=(
            "In static batches the six wait until the first five have ended. In runs "
            "the batch is stopped twice, and begins again with three more: the dark "
            "beginning of a bar is the step that computes its prompt."
        ),
    )
    (tmp_path / PAGE.name).write_text(drawing, "utf-8")

    assert PAGE.read_text("utf-8") == drawing, f"the new one is {tmp_path / PAGE.name}"
