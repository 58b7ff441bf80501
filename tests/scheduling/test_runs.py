# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import attrs
import pytest
from strategies import Job, script_of

from unillm import SamplingParams
from unillm.engines.batches import BatchTraits, PromptWork, RowTokens, RunStep
from unillm.errors import InvalidParameterError, PluginError
from unillm.scheduling import runs as runs_module
from unillm.scheduling.policy import PATIENCE
from unillm.scheduling.runs import RunScheduler
from unillm.testing.batches import ScriptedBatchEngine, StepCosts

CHEAP = StepCosts(step_s=1.0, call_s=1.0, prompt_token_s=0.001)
DEAR = StepCosts(step_s=1.0, call_s=1.0, prompt_token_s=1.0)


def job(number: int, **fields) -> Job:
    given = {
        "arrives_at": 0,
        "prompt_length": 4,
        "natural_length": 3,
        "max_new_tokens": 100,
        "priority": 0,
        "aborted_at": None,
    }
    return Job(number=number, **(given | fields))


def scheduler_of(*jobs: Job, rows: int = 2, **options):
    options.setdefault("costs", CHEAP)
    engine = ScriptedBatchEngine(script_of(list(jobs)), max_rows=rows, **options)
    scheduler = RunScheduler(engine, clock=engine.clock)
    for each in jobs:
        scheduler.add_request(each.request)
    return scheduler, engine


def finish(scheduler: RunScheduler) -> dict[str, tuple[int, ...]]:
    """Run to the end; return each request's tokens, in the order of the ends."""
    tokens: dict[str, list[int]] = {}
    ended: dict[str, tuple[int, ...]] = {}
    while scheduler.has_unfinished():
        for output in scheduler.step():
            tokens.setdefault(output.request_id, []).extend(output.token_ids)
            if output.finish_reason:
                ended[output.request_id] = tuple(tokens[output.request_id])
        scheduler.check()
    return ended


def runs(engine: ScriptedBatchEngine) -> list[tuple[str, ...]]:
    return [call[1] for call in engine.calls if call[0] == "run"]


def test_a_run_is_stopped_and_refilled_when_that_is_cheap():
    jobs = [job(0, natural_length=40), *(job(n, natural_length=3) for n in (1, 2, 3))]
    scheduler, engine = scheduler_of(*jobs)

    ended = finish(scheduler)

    assert ended == {f"r{j.number}": j.tokens for j in jobs}
    assert list(ended)[-1] == "r0"
    assert runs(engine) == [("r0", "r1"), ("r0", "r2"), ("r0", "r3")]
    assert (scheduler.counters.stops, scheduler.counters.refills) == (2, 2)


def test_a_survivor_begins_again_with_what_it_has_said():
    jobs = [job(0, natural_length=40), *(job(n, natural_length=3) for n in (1, 2))]
    seen = []

    class Noting(ScriptedBatchEngine):
        def run(self, rows, *, max_new_tokens):
            seen.append(rows)
            return super().run(rows, max_new_tokens=max_new_tokens)

    engine = Noting(script_of(jobs), max_rows=2, costs=CHEAP)
    scheduler = RunScheduler(engine, clock=engine.clock)
    for each in jobs:
        scheduler.add_request(each.request)
    finish(scheduler)

    survivor = seen[1][0]
    count = len(survivor.generated)
    assert count > 0
    assert jobs[0].tokens[:count] == survivor.generated
    assert (*jobs[0].request.prompt_token_ids, *survivor.generated) == (
        survivor.prompt_token_ids
    )
    assert 100 - count == survivor.max_new_tokens


def test_a_run_is_not_stopped_where_that_would_cost_more():
    known = [job(n, natural_length=2) for n in range(4)]
    jobs = [job(4, natural_length=40), *(job(n, natural_length=3) for n in (5, 6, 7))]
    scheduler, engine = scheduler_of(*known, *jobs, costs=DEAR)

    finish(scheduler)

    assert runs(engine)[2:] == [("r4", "r5"), ("r6", "r7")]
    assert scheduler.counters.stops == 0


def test_what_only_the_first_run_costs_holds_nobody_back():
    """Five rows go on for long when three come that are short."""
    costs = attrs.evolve(CHEAP, warm_up_s=100.0)
    first = [job(n, natural_length=90) for n in range(5)]
    later = [job(n, natural_length=4) for n in range(5, 8)]
    engine = ScriptedBatchEngine(script_of(first + later), max_rows=8, costs=costs)
    scheduler = RunScheduler(engine, clock=engine.clock)
    for each in first:
        scheduler.add_request(each.request)
    scheduler.step()
    came_at = engine.now
    for each in later:
        scheduler.add_request(each.request)

    while scheduler.counters.runs == 1:
        scheduler.step()

    assert engine.now - came_at <= PATIENCE + 2


def test_short_prompts_do_not_make_tokens_look_dear():
    """The call itself takes a step; a token of these prompts takes no more than any."""
    costs = StepCosts(step_s=1.0, call_s=1.0, prompt_token_s=0.001)
    jobs = [job(n, prompt_length=3, natural_length=4) for n in range(8)]
    scheduler, _ = scheduler_of(*jobs, costs=costs)

    finish(scheduler)

    assert scheduler.stats()["prompt_token_seconds"] == pytest.approx(0.001)


def test_equal_lengths_run_as_static_batches():
    scheduler, engine = scheduler_of(
        *(job(n, natural_length=20) for n in range(8)), rows=4
    )

    finish(scheduler)

    assert len(runs(engine)) == 2
    assert 0 == scheduler.counters.stops == scheduler.counters.reprefilled_tokens


def test_those_who_come_later_do_not_wait_for_the_first_to_end():
    first = [job(n, natural_length=90) for n in range(5)]
    later = [job(n, natural_length=4) for n in range(5, 8)]
    engine = ScriptedBatchEngine(script_of(first + later), max_rows=8, costs=CHEAP)
    scheduler = RunScheduler(engine, clock=engine.clock)
    for each in first:
        scheduler.add_request(each.request)
    scheduler.step()
    for each in later:
        scheduler.add_request(each.request)

    ended = list(finish(scheduler))

    assert ended[:3] == ["r5", "r6", "r7"]


def test_who_waits_for_a_free_row_waits_no_longer_than_patience():
    """The step of this engine costs its live rows alone, so no row is ever wasted."""
    costs = StepCosts(step_s=1e-9, row_s=1.0, call_s=1.0, prompt_token_s=0.5)
    jobs = [job(0, natural_length=240), job(1, natural_length=2), job(2)]
    engine = ScriptedBatchEngine(
        script_of(jobs), max_rows=2, costs=costs, max_model_len=2000
    )
    scheduler = RunScheduler(engine, clock=engine.clock)
    for each in jobs:
        request = attrs.evolve(each.request, max_new_tokens=1500)
        scheduler.add_request(request)

    freed_at = began_at = None
    while began_at is None:
        before = scheduler.counters.runs
        outputs = scheduler.step()
        if any(o.request_id == "r1" and o.finish_reason for o in outputs):
            freed_at = engine.now
        if freed_at is not None and scheduler.counters.runs > before:
            began_at = engine.now

    context = 4 + began_at  # no shorter than the survivor's at the stop
    restart = 2 * (1 + context * 0.5)
    assert began_at - freed_at <= PATIENCE * restart + 2 + context * 0.5 * 2


def test_a_request_whose_state_would_be_lost_is_never_stopped():
    bound = BatchTraits(run_bound_fields={"seed": "the engine's generator starts anew"})
    jobs = [job(0, natural_length=40), *(job(n, natural_length=3) for n in (1, 2, 3))]
    engine = ScriptedBatchEngine(script_of(jobs), max_rows=2, costs=CHEAP, traits=bound)
    scheduler = RunScheduler(engine, clock=engine.clock)
    seeded = attrs.evolve(jobs[0].request, params=SamplingParams(seed=0))
    for request in (seeded, *(each.request for each in jobs[1:])):
        scheduler.add_request(request)

    finish(scheduler)

    assert runs(engine) == [("r0", "r1"), ("r2", "r3")]


def test_a_greedy_request_with_a_seed_can_be_stopped():
    bound = BatchTraits(run_bound_fields={"seed": "the engine's generator starts anew"})
    jobs = [job(0, natural_length=40), *(job(n, natural_length=3) for n in (1, 2, 3))]
    engine = ScriptedBatchEngine(script_of(jobs), max_rows=2, costs=CHEAP, traits=bound)
    scheduler = RunScheduler(engine, clock=engine.clock)
    greedy = SamplingParams(seed=0, temperature=0)
    for each in jobs:
        scheduler.add_request(attrs.evolve(each.request, params=greedy))

    finish(scheduler)

    assert len(runs(engine)) == 3


def test_a_request_that_has_outgrown_the_longest_prompt_ends_in_its_run():
    jobs = [job(0, natural_length=40), *(job(n, natural_length=9) for n in (1, 2, 3))]
    scheduler, engine = scheduler_of(*jobs, max_prompt_len=10)

    ended = finish(scheduler)

    assert ended == {f"r{j.number}": j.tokens for j in jobs}
    assert runs(engine) == [("r0", "r1"), ("r2", "r3")]


def test_an_engine_that_cannot_stop_is_given_the_length_of_a_run():
    """With max_tokens known, the long request is interrupted where that pays."""
    lengths = [40, 3, 3, 3]
    jobs = [job(n, natural_length=99, max_new_tokens=m) for n, m in enumerate(lengths)]
    scheduler, engine = scheduler_of(*jobs, traits=BatchTraits(can_stop=False))

    ended = finish(scheduler)

    assert ended == {f"r{j.number}": j.tokens for j in jobs}
    # Costs are unknown in the first run, which is a plain static batch.
    assert runs(engine)[0] == ("r0", "r1")


def test_an_engine_that_cannot_stop_ends_its_run_for_who_waits():
    lengths = [5, 5, 9, 9, 60, 3, 3, 3]
    jobs = [job(n, natural_length=99, max_new_tokens=m) for n, m in enumerate(lengths)]
    scheduler, engine = scheduler_of(*jobs, traits=BatchTraits(can_stop=False))

    ended = finish(scheduler)

    assert ended == {f"r{j.number}": j.tokens for j in jobs}
    assert runs(engine)[2:5] == [("r4", "r5"), ("r4", "r6"), ("r4", "r7")]


SHARED = BatchTraits(shared_context=True)


def test_a_shared_context_ends_a_run_where_its_longest_prompt_has_no_more_room():
    jobs = [
        job(0, prompt_length=90, natural_length=9, max_new_tokens=10),
        job(1, prompt_length=10, natural_length=60, max_new_tokens=80),
    ]
    scheduler, engine = scheduler_of(*jobs, traits=SHARED, max_model_len=100)

    ended = finish(scheduler)

    assert ended == {f"r{j.number}": j.tokens for j in jobs}
    assert runs(engine) == [("r0", "r1"), ("r1",)]


def test_a_shared_context_keeps_apart_what_cannot_go_on_in_another_run():
    """The second one would have outgrown the longest prompt when the run must end."""
    jobs = [
        job(0, prompt_length=50, natural_length=9, max_new_tokens=10),
        job(1, prompt_length=38, natural_length=50, max_new_tokens=60),
        job(2, prompt_length=50, natural_length=9, max_new_tokens=10),
    ]
    scheduler, engine = scheduler_of(
        *jobs, traits=SHARED, max_model_len=100, max_prompt_len=50
    )

    ended = finish(scheduler)

    assert ended == {f"r{j.number}": j.tokens for j in jobs}
    assert runs(engine) == [("r0", "r2"), ("r1",)]


def test_requests_of_two_groups_take_turns():
    jobs = [job(n, natural_length=60 if n < 4 else 5) for n in range(8)]
    scheduler, engine = scheduler_of(
        *jobs, rows=4, group=lambda request: request.seed % 2
    )

    ended = finish(scheduler)

    assert ended == {f"r{j.number}": j.tokens for j in jobs}
    assert all(len({int(i[1:]) % 2 for i in ids}) == 1 for ids in runs(engine))


def test_prompts_that_are_fed_step_by_step_get_their_tokens_later():
    jobs = [job(0, prompt_length=4), job(1, prompt_length=9)]
    scheduler, _ = scheduler_of(
        *jobs, traits=BatchTraits(prompt_work=PromptWork.STEPWISE)
    )

    told = [[o.request_id for o in scheduler.step()] for _ in range(4)]

    assert told == [["r0"], ["r0"], ["r0"], ["r1"]]


def test_tokens_behind_a_rows_end_are_dropped():
    class Chunks(ScriptedBatchEngine):
        """Tells many tokens at once, and goes on behind each end."""

        def run(self, rows, *, max_new_tokens):
            assert [row.max_new_tokens for row in rows] == [6, 2]
            yield RunStep(
                [
                    RowTokens(row=0, token_ids=(5, 6, 0, 7, 8)),
                    RowTokens(row=1, token_ids=(5, 6, 7, 8, 9)),
                ],
                num_steps=5,
            )
            yield RunStep([RowTokens(row=0, token_ids=(9,))])

    engine = Chunks(lambda *_: 1, max_rows=2)
    scheduler = RunScheduler(engine, clock=engine.clock)
    scheduler.add_request(job(0, max_new_tokens=6).request)
    scheduler.add_request(job(1, max_new_tokens=2).request)

    outputs = scheduler.step()

    assert [
        (o.request_id, o.token_ids, o.finish_reason, o.stop_token_id) for o in outputs
    ] == [("r0", (5, 6, 0), "stop", 0), ("r1", (5, 6), "length", None)]
    assert not scheduler.has_unfinished()


def test_a_row_that_fails_takes_no_other_with_it():
    class Failing(ScriptedBatchEngine):
        def run(self, rows, *, max_new_tokens):
            for step in super().run(rows, max_new_tokens=max_new_tokens):
                yield attrs.evolve(
                    step,
                    rows=[
                        RowTokens(row=1, error="non-finite logits")
                        if tokens.row == 1
                        else tokens
                        for tokens in step.rows
                    ],
                )

    jobs = [job(0, natural_length=4), job(1, natural_length=4)]
    engine = Failing(script_of(jobs), max_rows=2)
    scheduler = RunScheduler(engine, clock=engine.clock)
    for each in jobs:
        scheduler.add_request(each.request)

    outputs = []
    while scheduler.has_unfinished():
        outputs += scheduler.step()

    ended = {o.request_id: o for o in outputs if o.finish_reason}
    assert ended["r0"].finish_reason == "stop"
    assert (
        ended["r1"].finish_reason,
        ended["r1"].error,
    ) == ("error", "non-finite logits")
    assert (ended["r1"].slots.prefill_chunks, ended["r1"].slots.decode_steps) == (1, 0)
    assert (scheduler.counters.failed, scheduler.counters.finished) == (1, 1)


def test_an_aborted_request_leaves_its_run_to_the_others():
    jobs = [job(0, natural_length=6), job(1, natural_length=90)]
    scheduler, engine = scheduler_of(*jobs)
    [first, _] = scheduler.step()

    scheduler.abort(["r1"])

    [(request_id, rest)] = finish(scheduler).items()
    assert ("r0", jobs[0].tokens) == (request_id, (*first.token_ids, *rest))
    assert engine.now < 10


def test_a_run_of_which_nobody_wants_more_is_closed():
    scheduler, engine = scheduler_of(job(0, natural_length=90))
    scheduler.step()

    scheduler.abort(["r0", "nobody"])

    engine.check_idle()
    assert not scheduler.has_unfinished()
    assert scheduler.counters.aborted == 1


def test_a_run_is_made_of_requests_that_end_together():
    """The first to go, and of those behind it the ones most like it."""
    lengths = [9, 90, 8, 91, 9, 92]
    jobs = [job(n, natural_length=200, max_new_tokens=m) for n, m in enumerate(lengths)]
    scheduler, engine = scheduler_of(*jobs, rows=3)

    finish(scheduler)

    assert runs(engine) == [("r0", "r4", "r2"), ("r1", "r3", "r5")]


def test_nobody_is_passed_by_more_than_a_window_of_later_ones(monkeypatch):
    """Each of seven in front of a long one has seven behind it that it would take."""
    monkeypatch.setattr(runs_module, "WINDOW", 2)
    different = range(20, 90, 10)
    lengths = [*[10] * 8, *different, 300, *(n for n in different for _ in range(7))]
    jobs = [job(n, natural_length=3, max_new_tokens=m) for n, m in enumerate(lengths)]
    scheduler, engine = scheduler_of(*jobs, rows=8, max_model_len=512)

    finish(scheduler)

    order = [int(request_id[1:]) for ids in runs(engine) for request_id in ids]
    for place, number in enumerate(order):
        assert sum(later > number for later in order[:place]) <= 2 * 8


def test_fed_prompts_are_put_together_by_their_length_too():
    lengths = [5, 50, 6, 51]
    jobs = [job(n, prompt_length=length) for n, length in enumerate(lengths)]
    scheduler, engine = scheduler_of(
        *jobs, traits=BatchTraits(prompt_work=PromptWork.STEPWISE)
    )

    finish(scheduler)

    assert runs(engine) == [("r0", "r2"), ("r1", "r3")]


def test_a_run_is_not_stopped_while_a_row_is_still_fed():
    """Or a long survivor could begin again and again and never get to its end."""
    jobs = [
        job(0, prompt_length=4, natural_length=2),
        job(1, prompt_length=120, natural_length=9),
        *(job(n, prompt_length=4, natural_length=2) for n in range(2, 30)),
    ]
    costs = StepCosts(step_s=1.0, call_s=0.0, prompt_token_s=0.0)
    scheduler, engine = scheduler_of(
        *jobs, traits=BatchTraits(prompt_work=PromptWork.STEPWISE), costs=costs
    )
    seen = []
    while scheduler.has_unfinished():
        seen += [o.request_id for o in scheduler.step()]
        scheduler.check()

    times = sum("r1" in ids for ids in runs(engine))
    assert times <= 9
    assert seen.count("r1") == 9


def test_lower_priority_numbers_go_first_and_ties_by_arrival():
    jobs = [job(0), job(1, priority=5), job(2, priority=-1), job(3)]
    scheduler, _ = scheduler_of(*jobs, rows=1)

    assert list(finish(scheduler)) == ["r2", "r0", "r3", "r1"]


def test_a_refused_request_is_not_kept():
    class Choosy(ScriptedBatchEngine):
        def check_request(self, request):
            raise InvalidParameterError("no", parameter="top_p", value=0.5)

    engine = Choosy(lambda *_: 1)
    scheduler = RunScheduler(engine, clock=engine.clock)

    with pytest.raises(InvalidParameterError):
        scheduler.add_request(job(0).request)

    assert not scheduler.has_unfinished()


def test_an_engine_that_ends_a_run_too_soon_is_told_so():
    class Short(ScriptedBatchEngine):
        def run(self, rows, *, max_new_tokens):
            yield RunStep([RowTokens(row=0, token_ids=(5,))])

    engine = Short(lambda *_: 1)
    scheduler = RunScheduler(engine, clock=engine.clock)
    scheduler.add_request(job(0).request)
    scheduler.step()

    with pytest.raises(PluginError, match="after 1 of 100 steps, and 1 of its rows"):
        scheduler.step()


def test_metrics_tell_what_a_request_cost():
    jobs = [job(0, natural_length=40), *(job(n, natural_length=3) for n in (1, 2))]
    scheduler, _ = scheduler_of(*jobs)

    ended = {}
    while scheduler.has_unfinished():
        ended |= {o.request_id: o.slots for o in scheduler.step() if o.finish_reason}

    assert attrs.astuple(
        ended["r1"], filter=attrs.filters.exclude("prefill_padding")
    ) == (0, 1, 3, False)
    assert (ended["r0"].prefill_chunks, ended["r0"].decode_steps) == (2, 40)
    assert ended["r2"].refilled
    assert ended["r2"].waited_steps > 0


def test_a_step_without_work_does_nothing():
    scheduler, engine = scheduler_of()

    assert scheduler.step() == []
    assert engine.calls == []


def test_closing_ends_the_run_and_closes_the_engine():
    scheduler, engine = scheduler_of(job(0, natural_length=90))

    with scheduler:
        scheduler.step()

    engine.check_idle()
    assert engine.calls[-1] == ("close",)
    scheduler.close()  # twice does nothing


def test_an_engine_is_told_which_rows_nobody_wants_any_more():
    ended = []

    class Told(ScriptedBatchEngine):
        def end_row(self, row):
            ended.append(row)
            super().end_row(row)

    jobs = [job(0, natural_length=9), job(1, natural_length=2), job(2)]
    engine = Told(script_of(jobs), max_rows=3)
    scheduler = RunScheduler(engine, clock=engine.clock)
    for each in jobs:
        scheduler.add_request(each.request)
    scheduler.step()
    scheduler.abort(["r0"])

    finish(scheduler)

    assert ended == [0, 1, 2]


# --------------------------------------------------------------------- what is counted


class Noting(ScriptedBatchEngine):
    """Remembers the rows of its runs."""

    def run(self, rows, *, max_new_tokens):
        self.seen = [*getattr(self, "seen", ()), *rows]
        return super().run(rows, max_new_tokens=max_new_tokens)


def test_tokens_of_prompts_are_counted_apart_from_what_is_computed_again():
    jobs = [
        job(0, natural_length=90),
        job(1, natural_length=80, prompt_length=7),
        *(job(n, natural_length=2) for n in (2, 3, 4, 5)),
    ]
    engine = Noting(script_of(jobs), max_rows=3, costs=CHEAP)
    scheduler = RunScheduler(engine, clock=engine.clock)
    for each in jobs:
        scheduler.add_request(each.request)

    finish(scheduler)

    again = [len(r.prompt_token_ids) for r in engine.seen if r.generated]
    assert len(again) > 2
    assert sum(again) == scheduler.counters.reprefilled_tokens
    assert scheduler.counters.prompt_tokens == 4 * 5 + 7


def test_statistics_say_what_there_is_and_what_was_done():
    jobs = [job(0, natural_length=4), job(1, natural_length=2), job(2)]
    scheduler, _ = scheduler_of(*jobs, costs=DEAR)
    scheduler.step()
    assert {
        name: scheduler.stats()[name] for name in ("max_rows", "running", "waiting")
    } == {"max_rows": 2, "running": 2, "waiting": 1}

    finish(scheduler)

    assert scheduler.stats() == {
        "max_rows": 2,
        "running": 0,
        "waiting": 0,
        "steps": 7,
        "runs": 2,
        "stops": 0,
        "refills": 0,
        "decode_steps": 7,
        "row_steps": 14,
        "idle_row_steps": 14 - 9,
        "admitted": 3,
        "finished": 3,
        "aborted": 0,
        "failed": 0,
        "prompt_tokens": 12,
        "reprefilled_tokens": 0,
        "prefill_padding": 0,
        "generated_tokens": 9,
        "step_seconds": 1.0,
        # Ten were measured; but a step of one row takes no longer than this.
        "prompt_token_seconds": 1.0,
    }


def test_padding_of_several_runs_is_summed():
    jobs = [
        job(0, prompt_length=2, natural_length=40),
        job(1, prompt_length=20, natural_length=2),
        job(2, prompt_length=90, natural_length=2),
    ]
    scheduler, engine = scheduler_of(
        *jobs, traits=BatchTraits(prompt_work=PromptWork.PADDED)
    )

    ended = {}
    while scheduler.has_unfinished():
        ended |= {o.request_id: o.slots for o in scheduler.step() if o.finish_reason}

    assert runs(engine) == [("r0", "r1"), ("r0", "r2")]
    again = scheduler.counters.reprefilled_tokens
    assert 18 + (90 - again) == ended["r0"].prefill_padding
    assert ended["r0"].prefill_padding == scheduler.counters.prefill_padding


def test_who_waits_is_let_in_once_the_waste_pays_for_it():
    """A lonely row wastes half of its step, and a stop costs one step."""
    jobs = [job(0, natural_length=90), job(1, natural_length=3), job(2)]
    scheduler, _ = scheduler_of(*jobs)

    ended = {}
    while scheduler.has_unfinished():
        ended |= {o.request_id: o.slots for o in scheduler.step() if o.finish_reason}

    assert 3 + 2 <= ended["r2"].waited_steps <= 3 + 3


def test_padding_is_counted_and_told_to_whom_it_concerned():
    jobs = [job(0, prompt_length=9), job(1, prompt_length=4)]
    scheduler, _ = scheduler_of(
        *jobs, traits=BatchTraits(prompt_work=PromptWork.PADDED)
    )

    ended = {}
    while scheduler.has_unfinished():
        ended |= {o.request_id: o.slots for o in scheduler.step() if o.finish_reason}

    assert (ended["r0"].prefill_padding, ended["r1"].prefill_padding) == (0, 5)
    assert scheduler.counters.prefill_padding == 5


def test_what_a_step_takes_is_learned_from_steps_told_together():
    class InFours(ScriptedBatchEngine):
        def run(self, rows, *, max_new_tokens):
            self.now += 3.0
            yield RunStep([RowTokens(row=0, token_ids=(5,))])
            self.now += 8.0
            yield RunStep([RowTokens(row=0, token_ids=(5, 5, 5, 5))], num_steps=4)

    engine = InFours(lambda *_: 5, max_rows=2)
    scheduler = RunScheduler(engine, clock=engine.clock)
    scheduler.add_request(job(0, max_new_tokens=5).request)

    finish(scheduler)

    assert scheduler.stats()["step_seconds"] == 2.0


def test_a_request_between_two_runs_can_be_aborted():
    """An engine that cannot stop ends its run for who waits; survivors stand back."""
    lengths = [5, 5, 9, 9, 60, 3, 3, 3]
    jobs = [job(n, natural_length=99, max_new_tokens=m) for n, m in enumerate(lengths)]
    scheduler, engine = scheduler_of(*jobs, traits=BatchTraits(can_stop=False))
    while not scheduler._between:
        scheduler.step()

    scheduler.abort(["r4"])

    assert "r4" not in finish(scheduler)
    assert scheduler.counters.aborted == 1
    assert scheduler.counters.finished == 7
    assert sum("r4" in ids for ids in runs(engine)) == 1


def test_logprobs_end_where_the_tokens_do():
    class Telling(ScriptedBatchEngine):
        def run(self, rows, *, max_new_tokens):
            of_prompt = ({1: 0.0}, {2: 0.0}, {3: 0.0})
            of_tokens = tuple({n: -float(n)} for n in range(4))
            yield RunStep(
                [
                    RowTokens(
                        row=0,
                        token_ids=(5, 6, 0, 7),
                        logprobs=of_tokens,
                        prompt_logprobs=of_prompt,
                    )
                ],
                num_steps=4,
            )

    engine = Telling(lambda *_: 5)
    scheduler = RunScheduler(engine, clock=engine.clock)
    scheduler.add_request(job(0).request)

    [output] = scheduler.step()

    assert (
        output.token_ids,
        len(output.logprobs),
        len(output.prompt_logprobs),
    ) == ((5, 6, 0), 3, 3)
