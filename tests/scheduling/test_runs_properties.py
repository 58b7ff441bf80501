# SPDX-License-Identifier: Apache-2.0

"""Properties of the run scheduler under random traffic."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import END, Job, script_of, traffic

from unillm.engines.base import EngineOutput
from unillm.engines.batches import BatchTraits, PromptWork
from unillm.scheduling.runs import RunScheduler
from unillm.testing.batches import ScriptedBatchEngine, StepCosts

pytestmark = pytest.mark.property

ROWS = st.integers(1, 9)
TRAITS = st.builds(
    BatchTraits,
    can_stop=st.booleans(),
    prompt_work=st.sampled_from(PromptWork),
    run_bound_fields=st.sampled_from([{}, {}, {"max_tokens": "counts from the run"}]),
)
COSTS = st.builds(
    StepCosts,
    step_s=st.sampled_from([1e-6, 1.0]),
    row_s=st.sampled_from([0.0, 0.1, 1.0]),
    call_s=st.sampled_from([0.0, 1.0, 20.0]),
    prompt_token_s=st.sampled_from([0.0, 0.001, 0.1]),
)
GROUPS = st.integers(1, 3)
LONGEST = st.sampled_from([None, None, 40, 45])


@attrs.frozen
class Setting:
    rows: int
    traits: BatchTraits
    costs: StepCosts
    groups: int
    max_prompt_len: int | None


SETTINGS = st.builds(Setting, ROWS, TRAITS, COSTS, GROUPS, LONGEST)


@attrs.define
class Run:
    """The outputs and aborts of some traffic."""

    scheduler: RunScheduler
    engine: ScriptedBatchEngine
    outputs: dict[str, list[EngineOutput]]
    aborted: set[str]


def run(jobs: list[Job], setting: Setting) -> Run:
    engine = ScriptedBatchEngine(
        script_of(jobs),
        max_rows=setting.rows,
        traits=setting.traits,
        costs=setting.costs,
        max_prompt_len=setting.max_prompt_len,
        group=lambda request: request.seed % setting.groups,
    )
    result = Run(RunScheduler(engine, clock=engine.clock), engine, {}, set())
    step = 0
    while step <= 60 or result.scheduler.has_unfinished():
        for job in jobs:
            if job.arrives_at == step:
                result.scheduler.add_request(job.request)
        for job in jobs:
            if job.aborted_at == step and job.arrives_at <= step:
                abort(result, job)
        for output in result.scheduler.step():
            result.outputs.setdefault(output.request_id, []).append(output)
        result.scheduler.check()
        step += 1
        assert step < 10_000, "the scheduler makes no progress"
    return result


def abort(result: Run, job: Job) -> None:
    request_id = job.request.request_id
    ended = any(o.finish_reason for o in result.outputs.get(request_id, []))
    before = result.scheduler.stats()
    result.scheduler.abort([request_id])
    after = result.scheduler.stats()
    held = before["running"] + before["waiting"] - after["running"] - after["waiting"]
    assert held == (0 if ended else 1)
    if not ended:
        result.aborted.add(request_id)


@given(traffic(), SETTINGS)
def test_each_request_ends_exactly_once(jobs, setting):
    result = run(jobs, setting)

    for job in jobs:
        request_id = job.request.request_id
        endings = [o for o in result.outputs.get(request_id, []) if o.finish_reason]
        expected = 0 if request_id in result.aborted else 1
        assert len(endings) == expected
        assert not endings or result.outputs[request_id][-1] is endings[0]


@given(traffic(), SETTINGS)
def test_tokens_depend_on_the_request_alone(jobs, setting):
    result = run(jobs, setting)

    for job in jobs:
        outputs = result.outputs.get(job.request.request_id, [])
        tokens = tuple(t for output in outputs for t in output.token_ids)
        if job.request.request_id in result.aborted:
            assert tokens == job.tokens[: len(tokens)]
        else:
            assert tokens == job.tokens
            stopped = job.tokens[-1] == END
            assert outputs[-1].finish_reason == ("stop" if stopped else "length")
            assert outputs[-1].stop_token_id == (END if stopped else None)


@given(traffic(), SETTINGS)
def test_nothing_is_left_behind(jobs, setting):
    result = run(jobs, setting)

    stats = result.scheduler.stats()
    assert (stats["running"], stats["waiting"]) == (0, 0)
    assert not result.scheduler.has_unfinished()
    result.scheduler.close()
    result.engine.check_idle()


@given(traffic(), SETTINGS)
def test_the_counters_add_up(jobs, setting):
    result = run(jobs, setting)

    stats = result.scheduler.stats()
    outputs = [o for some in result.outputs.values() for o in some]
    runs = [call[1] for call in result.engine.calls if call[0] == "run"]
    rows = sum(len(ids) for ids in runs)
    ends = [o.slots for o in outputs if o.finish_reason]
    assert stats["runs"] == len(runs)
    assert stats["generated_tokens"] == sum(len(o.token_ids) for o in outputs)
    assert stats["finished"] + stats["aborted"] == len(jobs)
    assert stats["row_steps"] == stats["decode_steps"] * setting.rows
    assert 0 <= stats["idle_row_steps"] <= stats["row_steps"]
    assert stats["stops"] < max(stats["runs"], 1)
    assert stats["refills"] <= stats["admitted"] <= rows
    assert all(metrics.waited_steps >= 0 for metrics in ends)
    if not result.aborted:
        assert sum(metrics.prefill_chunks for metrics in ends) == rows
        assert stats["prompt_tokens"] == sum(job.prompt_length for job in jobs)


@given(traffic(), SETTINGS)
def test_a_bound_request_is_in_one_run(jobs, setting):
    result = run(
        jobs,
        attrs.evolve(
            setting,
            traits=attrs.evolve(
                setting.traits, run_bound_fields={"max_tokens": "counts from the run"}
            ),
        ),
    )

    ends = [o for some in result.outputs.values() for o in some if o.finish_reason]
    assert all(output.slots.prefill_chunks == 1 for output in ends)
    assert result.scheduler.counters.stops == 0


@given(traffic(), SETTINGS)
def test_similar_requests_are_admitted_in_their_order(jobs, setting):
    """All are of one group, priority and size, and arrive together."""
    same = {"arrives_at": 0, "priority": 0, "aborted_at": None}
    same |= {"prompt_length": 5, "max_new_tokens": 20}
    alike = [attrs.evolve(job, **same) for job in jobs]
    result = run(alike, attrs.evolve(setting, groups=1))

    assert first_runs(result) == [f"r{job.number}" for job in alike]


@given(traffic(), SETTINGS)
def test_the_first_waiting_request_joins_the_next_admission(jobs, setting):
    alike = [
        attrs.evolve(job, arrives_at=0, priority=0, aborted_at=None) for job in jobs
    ]
    result = run(alike, attrs.evolve(setting, groups=1))

    waiting = [f"r{job.number}" for job in alike]
    for call in result.engine.calls:
        admitted = [each for each in waiting if call[0] == "run" and each in call[1]]
        assert not admitted or waiting[0] in admitted
        waiting = [each for each in waiting if each not in admitted]


def first_runs(result: Run) -> list[str]:
    """Return the request ids in the order of their first runs."""
    return list(
        dict.fromkeys(
            request_id
            for call in result.engine.calls
            if call[0] == "run"
            for request_id in call[1]
        )
    )
