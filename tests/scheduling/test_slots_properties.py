# SPDX-License-Identifier: Apache-2.0

"""Properties of the slot scheduler under random traffic."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import END, Job, script_of, traffic

from unillm.engines.base import EngineOutput
from unillm.scheduling.slots import SlotScheduler
from unillm.testing.scripted import ScriptedSlotEngine

pytestmark = pytest.mark.property

SLOTS = st.integers(1, 9)
BUDGETS = st.integers(1, 64)


@attrs.define
class Run:
    """The outputs and aborts of some traffic."""

    scheduler: SlotScheduler
    engine: ScriptedSlotEngine
    outputs: dict[str, list[EngineOutput]]
    aborted: set[str]
    idle_while_waiting: list[str]


def run(jobs: list[Job], slots: int, budget: int) -> Run:
    engine = ScriptedSlotEngine(script_of(jobs), num_slots=slots)
    scheduler = SlotScheduler(engine, max_num_batched_tokens=budget)
    result = Run(scheduler, engine, {}, set(), [])
    step = 0
    while step <= 60 or scheduler.has_unfinished():
        for job in jobs:
            if job.arrives_at == step:
                scheduler.add_request(job.request)
        for job in jobs:
            if job.aborted_at == step and job.arrives_at <= step:
                abort(result, job)
        _step(result, budget)
        scheduler.check()
        step += 1
        assert step < 10_000, "the scheduler makes no progress"
    return result


def abort(result: Run, job: Job) -> None:
    """Abort a job and check that its slot is free at once."""
    request_id = job.request.request_id
    ended = any(o.finish_reason for o in result.outputs.get(request_id, []))
    before = result.scheduler.stats()
    result.scheduler.abort([request_id])
    after = result.scheduler.stats()
    held = before["running"] + before["waiting"] - after["running"] - after["waiting"]
    assert held == (0 if ended else 1)
    if not ended:
        result.aborted.add(request_id)


def _step(result: Run, budget: int) -> None:
    before = result.scheduler.stats()
    for output in result.scheduler.step():
        result.outputs.setdefault(output.request_id, []).append(output)
    after = result.scheduler.stats()
    decoded = after["occupied_slot_steps"] - before["occupied_slot_steps"]
    spent = after["prompt_tokens"] - before["prompt_tokens"]
    idle = after["decode_steps"] > before["decode_steps"] and (
        decoded < after["num_slots"]
    )
    if idle and after["waiting"] and spent < budget:
        result.idle_while_waiting.append(str(after))


@given(traffic(), SLOTS, BUDGETS)
def test_each_request_ends_exactly_once(jobs, slots, budget):
    result = run(jobs, slots, budget)

    for job in jobs:
        request_id = job.request.request_id
        endings = [o for o in result.outputs.get(request_id, []) if o.finish_reason]
        expected = 0 if request_id in result.aborted else 1
        assert len(endings) == expected
        assert not endings or result.outputs[request_id][-1] is endings[0]


@given(traffic(), SLOTS, BUDGETS)
def test_tokens_depend_on_the_request_alone(jobs, slots, budget):
    result = run(jobs, slots, budget)

    for job in jobs:
        request_id = job.request.request_id
        outputs = result.outputs.get(request_id, [])
        tokens = tuple(t for output in outputs for t in output.token_ids)
        if request_id in result.aborted:
            assert tokens == job.tokens[: len(tokens)]
        else:
            assert tokens == job.tokens


@given(traffic(), SLOTS, BUDGETS)
def test_finish_reason_says_which_rule_ended_it(jobs, slots, budget):
    result = run(jobs, slots, budget)

    for job in jobs:
        outputs = result.outputs.get(job.request.request_id, [])
        if outputs and outputs[-1].finish_reason:
            stopped = job.tokens[-1] == END
            assert outputs[-1].finish_reason == ("stop" if stopped else "length")
            assert outputs[-1].stop_token_id == (END if stopped else None)


@given(traffic(), SLOTS, BUDGETS)
def test_no_slot_idles_while_a_request_waits(jobs, slots, budget):
    result = run(jobs, slots, budget)

    assert result.idle_while_waiting == []


@given(traffic(), SLOTS, BUDGETS)
def test_nothing_is_left_behind(jobs, slots, budget):
    result = run(jobs, slots, budget)

    assert not result.scheduler.has_unfinished()
    stats = result.scheduler.stats()
    assert (stats["running"], stats["waiting"]) == (0, 0)
    assert not result.engine._rows


@given(traffic(), SLOTS, BUDGETS)
def test_the_counters_add_up(jobs, slots, budget):
    result = run(jobs, slots, budget)

    stats = result.scheduler.stats()
    outputs = [o for some in result.outputs.values() for o in some]
    asked = dict.fromkeys(("prefill", "decode", "release"), 0)
    for call in result.engine.calls:
        asked[call[0]] += len(call[1]) if call[0] == "decode" else 1
    assert stats["generated_tokens"] == sum(len(o.token_ids) for o in outputs)
    assert stats["finished"] + stats["aborted"] == len(jobs)
    assert stats["admitted"] == asked["release"]
    assert stats["occupied_slot_steps"] == asked["decode"]
    assert stats["slot_steps"] == stats["decode_steps"] * slots
    assert stats["refills"] <= stats["admitted"]
    ends = [o.slots for o in outputs if o.finish_reason]
    assert all(metrics is not None and metrics.waited_steps >= 0 for metrics in ends)
    if not result.aborted:
        assert stats["occupied_slot_steps"] == sum(m.decode_steps for m in ends)
        assert stats["refills"] == sum(m.refilled for m in ends)
        assert stats["prompt_tokens"] == sum(job.prompt_length for job in jobs)


@given(traffic(), SLOTS, BUDGETS)
def test_a_step_computes_no_more_prompt_tokens_than_its_budget(jobs, slots, budget):
    engine = ScriptedSlotEngine(script_of(jobs), num_slots=slots)
    scheduler = SlotScheduler(engine, max_num_batched_tokens=budget)
    for job in jobs:
        scheduler.add_request(job.request)

    while scheduler.has_unfinished():
        before = scheduler.counters.prompt_tokens
        scheduler.step()
        assert scheduler.counters.prompt_tokens - before <= budget
