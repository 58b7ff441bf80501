# SPDX-License-Identifier: Apache-2.0

"""Properties of both schedulers under random traffic."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scheduled import run_scheduler, runs_of, slot_scheduler
from strategies import END, SEEDED, Job, traffic

from unillm.engines.base import EngineOutput
from unillm.engines.batches import BatchTraits, PromptWork
from unillm.scheduling.runs import RunScheduler
from unillm.scheduling.slots import SlotScheduler
from unillm.testing.batches import ScriptedBatchEngine, StepCosts
from unillm.testing.scripted import ScriptedSlotEngine

pytestmark = pytest.mark.property

BOUND = {"seed": "the engine's generator starts anew"}


@attrs.frozen
class Slots:
    slots: int
    budget: int
    shortest_prefix: int | None
    joins_steps: bool
    starts_ahead: bool

    def scheduler(self, jobs: list[Job]):
        return slot_scheduler(
            later=jobs,
            slots=self.slots,
            budget=self.budget,
            shortest_prefix=self.shortest_prefix,
            joins_steps=self.joins_steps,
            starts_ahead=self.starts_ahead,
        )


@attrs.frozen
class Runs:
    rows: int
    traits: BatchTraits
    costs: StepCosts
    groups: int
    max_prompt_len: int | None

    def scheduler(self, jobs: list[Job]):
        return run_scheduler(
            later=jobs,
            rows=self.rows,
            traits=self.traits,
            costs=self.costs,
            max_prompt_len=self.max_prompt_len,
            # Groups need not be ordered.
            group=lambda request: complex(request.seed % self.groups),
        )


SLOTS = st.builds(
    Slots,
    slots=st.integers(1, 9),
    budget=st.integers(1, 64),
    shortest_prefix=st.sampled_from([None, 2, 8]),
    joins_steps=st.booleans(),
    starts_ahead=st.booleans(),
)
RUNS = st.builds(
    Runs,
    rows=st.integers(1, 9),
    traits=st.builds(
        BatchTraits,
        can_stop=st.booleans(),
        prompt_work=st.sampled_from(PromptWork),
        run_bound_fields=st.sampled_from([{}, {}, BOUND]),
    ),
    costs=st.builds(
        StepCosts,
        step_s=st.sampled_from([1e-6, 1.0]),
        row_s=st.sampled_from([0.0, 0.1, 1.0]),
        call_s=st.sampled_from([0.0, 1.0, 20.0]),
        prompt_token_s=st.sampled_from([0.0, 0.001, 0.1]),
    ),
    groups=st.integers(1, 3),
    max_prompt_len=st.sampled_from([None, None, 40, 45]),
)
both = pytest.mark.parametrize("settings", [SLOTS, RUNS], ids=["slots", "runs"])


@attrs.define
class Served:
    """The outputs, aborts and statistics of some traffic."""

    scheduler: SlotScheduler | RunScheduler
    engine: ScriptedSlotEngine | ScriptedBatchEngine
    outputs: dict[str, list[EngineOutput]] = attrs.Factory(dict)
    aborted: set[str] = attrs.Factory(set)
    stats: list[dict] = attrs.Factory(list)
    """After each step."""

    @property
    def all_outputs(self) -> list[EngineOutput]:
        return [output for some in self.outputs.values() for output in some]

    @property
    def ends(self) -> list[EngineOutput]:
        return [output for output in self.all_outputs if output.finish_reason]


def serve(jobs: list[Job], setting: Slots | Runs) -> Served:
    served = Served(*setting.scheduler(jobs))
    scheduler = served.scheduler
    step = 0
    while step <= 60 or scheduler.has_unfinished():
        for job in jobs:
            if job.arrives_at == step:
                scheduler.add_request(job.request)
        for job in jobs:
            if job.aborted_at == step and job.arrives_at <= step:
                abort(served, job)
        for output in scheduler.step():
            served.outputs.setdefault(output.request_id, []).append(output)
        scheduler.check()
        served.stats.append(scheduler.stats())
        step += 1
        assert step < 10_000, "the scheduler makes no progress"
    return served


def abort(served: Served, job: Job) -> None:
    """Abort a job and check that its row is free at once."""
    request_id = job.request.request_id
    ended = any(o.finish_reason for o in served.outputs.get(request_id, []))
    before = served.scheduler.stats()
    served.scheduler.abort([request_id])
    after = served.scheduler.stats()
    held = before["running"] + before["waiting"] - after["running"] - after["waiting"]
    assert held == (0 if ended else 1)
    if not ended:
        served.aborted.add(request_id)


# ----------------------------------------------------------------------- both schedulers


@both
@given(data=st.data())
def test_each_request_ends_exactly_once(settings, data):
    jobs = data.draw(traffic())
    served = serve(jobs, data.draw(settings))

    for job in jobs:
        request_id = job.request.request_id
        outputs = served.outputs.get(request_id, [])
        ends = [output for output in outputs if output.finish_reason]
        assert len(ends) == (0 if request_id in served.aborted else 1)
        assert not ends or outputs[-1] is ends[0]


@both
@given(data=st.data())
def test_tokens_and_ends_depend_on_the_request_alone(settings, data):
    jobs = data.draw(traffic())
    served = serve(jobs, data.draw(settings))

    for job in jobs:
        outputs = served.outputs.get(job.request.request_id, [])
        tokens = tuple(t for output in outputs for t in output.token_ids)
        if job.request.request_id in served.aborted:
            assert tokens == job.tokens[: len(tokens)]
        else:
            assert tokens == job.tokens
            stopped = job.tokens[-1] == END
            assert outputs[-1].finish_reason == ("stop" if stopped else "length")
            assert outputs[-1].stop_token_id == (END if stopped else None)


@both
@given(data=st.data())
def test_nothing_is_left_behind(settings, data):
    served = serve(data.draw(traffic()), data.draw(settings))

    stats = served.scheduler.stats()
    assert (stats["running"], stats["waiting"]) == (0, 0)
    assert not served.scheduler.has_unfinished()


@both
@given(data=st.data())
def test_the_common_counters_add_up(settings, data):
    jobs = data.draw(traffic())
    served = serve(jobs, data.draw(settings))

    stats = served.scheduler.stats()
    assert stats["generated_tokens"] == sum(
        len(output.token_ids) for output in served.all_outputs
    )
    assert stats["finished"] + stats["aborted"] == len(jobs)
    assert stats["refills"] <= stats["admitted"]
    assert all(end.slots.waited_steps >= 0 for end in served.ends)
    if not served.aborted:
        computed = stats["prompt_tokens"] + stats.get("cached_tokens", 0)
        assert computed == sum(job.prompt_length for job in jobs)


# ------------------------------------------------------------------------------ slots


@given(traffic(), SLOTS)
def test_no_slot_is_idle_while_a_request_waits(jobs, setting):
    served = serve(jobs, setting)

    zero = dict.fromkeys(served.stats[0], 0)
    for before, after in zip([zero, *served.stats], served.stats, strict=False):
        decoded = after["occupied_slot_steps"] - before["occupied_slot_steps"]
        spent = after["prompt_tokens"] - before["prompt_tokens"]
        assert spent <= setting.budget
        decodes = after["decode_steps"] > before["decode_steps"]
        if (
            decodes
            and after["waiting"]
            and not (setting.joins_steps or setting.starts_ahead)
        ):
            assert decoded == setting.slots or spent == setting.budget


@given(traffic(), SLOTS)
def test_the_counters_of_slots_add_up(jobs, setting):
    served = serve(jobs, setting)

    stats = served.scheduler.stats()
    calls = dict.fromkeys(("prefill", "decode", "release"), 0)
    for call in served.engine.calls:
        calls[call[0]] += len(call[1]) if call[0] == "decode" else 1
    assert stats["admitted"] == calls["release"]
    # A request may be computed once more after its end, where steps start ahead.
    dropped = calls["decode"] - stats["occupied_slot_steps"]
    assert 0 <= dropped <= setting.starts_ahead * calls["release"]
    assert stats["slot_steps"] == stats["decode_steps"] * setting.slots
    if not served.aborted:
        ends = [end.slots for end in served.ends]
        assert stats["occupied_slot_steps"] == sum(each.decode_steps for each in ends)
        assert stats["refills"] == sum(each.refilled for each in ends)


@given(traffic(), SLOTS)
def test_prompts_that_begin_alike_are_computed_once(jobs, setting):
    """All prompts are beginnings of one, so a longer one has what each needs."""
    served = serve(jobs, setting)

    cached = {o.request_id: o.num_cached_tokens for o in served.all_outputs}
    lengths = {job.request.request_id: job.prompt_length for job in jobs}
    assert all(cached[name] < lengths[name] for name in cached)
    if setting.shortest_prefix is None:
        assert not any(cached.values())
    elif not served.aborted:
        # Without an abort, a prompt shares all its tokens but the last with each of
        # these that has as many, whether it waited for them or they had ended.
        arrived = {(job.arrives_at, job.priority, job.prompt_length) for job in jobs}
        if len({each[:2] for each in arrived}) == 1 and setting.slots >= len(jobs):
            computed = served.stats[-1]["prompt_tokens"]
            longest = max((job.prompt_length for job in jobs), default=0)
            assert computed <= longest + len(jobs) * setting.shortest_prefix


# ------------------------------------------------------------------------------- runs


@given(traffic(), RUNS)
def test_the_counters_of_runs_add_up(jobs, setting):
    served = serve(jobs, setting)

    stats = served.scheduler.stats()
    runs = runs_of(served.engine)
    rows = sum(map(len, runs))
    served.engine.check_idle()
    assert stats["runs"] == len(runs)
    assert stats["row_steps"] == stats["decode_steps"] * setting.rows
    assert 0 <= stats["idle_row_steps"] <= stats["row_steps"]
    assert stats["stops"] < max(stats["runs"], 1)
    assert stats["admitted"] <= rows
    if not served.aborted:
        assert sum(end.slots.prefill_chunks for end in served.ends) == rows


@given(traffic(), RUNS)
def test_a_bound_request_is_in_one_run(jobs, setting):
    jobs = [attrs.evolve(job, params=SEEDED) for job in jobs]
    traits = attrs.evolve(setting.traits, run_bound_fields=BOUND)
    served = serve(jobs, attrs.evolve(setting, traits=traits))

    assert all(end.slots.prefill_chunks == 1 for end in served.ends)
    assert served.scheduler.counters.stops == 0


@given(traffic(), RUNS)
def test_similar_requests_are_admitted_in_their_order(jobs, setting):
    """All are of one group, priority and size, and arrive together."""
    same = {"arrives_at": 0, "priority": 0, "aborted_at": None}
    same |= {"prompt_length": 5, "max_new_tokens": 20}
    similar = [attrs.evolve(job, **same) for job in jobs]
    served = serve(similar, attrs.evolve(setting, groups=1))

    first_runs = dict.fromkeys(i for ids in runs_of(served.engine) for i in ids)
    assert list(first_runs) == [job.request.request_id for job in similar]


@given(traffic(), RUNS)
def test_the_first_waiting_request_joins_the_next_admission(jobs, setting):
    same = {"arrives_at": 0, "priority": 0, "aborted_at": None}
    similar = [attrs.evolve(job, **same) for job in jobs]
    served = serve(similar, attrs.evolve(setting, groups=1))

    waiting = [job.request.request_id for job in similar]
    for ids in runs_of(served.engine):
        admitted = [each for each in waiting if each in ids]
        assert not admitted or waiting[0] in admitted
        waiting = [each for each in waiting if each not in admitted]
