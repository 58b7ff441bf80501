# SPDX-License-Identifier: Apache-2.0

"""How long runs go on: stops, patience, and lengths chosen in advance."""

from __future__ import annotations

import attrs
import pytest
from scheduled import CHEAP, ends_of, outputs_of, run_scheduler, runs_of, tokens_of
from strategies import Job

from unillm import SamplingParams
from unillm.engines.batches import BatchTraits, PromptWork, RowTokens, RunStep
from unillm.scheduling.policy import PATIENCE
from unillm.testing.batches import ScriptedBatchEngine, StepCosts

DEAR = attrs.evolve(CHEAP, prompt_token_s=1.0)
BOUND = BatchTraits(run_bound_fields={"seed": "the engine's generator starts anew"})
LONG_AND_SHORT = [Job(0, natural_length=40), *map(Job, (1, 2, 3))]


# ------------------------------------------------------------------------------- stops


def test_a_run_is_stopped_and_refilled_where_that_is_cheap():
    scheduler, engine = run_scheduler(*LONG_AND_SHORT)

    tokens = tokens_of(scheduler)

    assert tokens == {f"r{job.number}": job.tokens for job in LONG_AND_SHORT}
    assert list(tokens)[-1] == "r0"
    assert runs_of(engine) == [("r0", "r1"), ("r0", "r2"), ("r0", "r3")]
    assert (scheduler.counters.stops, scheduler.counters.refills) == (2, 2)


def test_a_run_is_not_stopped_where_that_costs_more():
    measured = [Job(n, natural_length=2) for n in range(4)]
    jobs = [Job(4, natural_length=40), *map(Job, (5, 6, 7))]
    scheduler, engine = run_scheduler(*measured, *jobs, costs=DEAR)

    outputs_of(scheduler)

    assert runs_of(engine)[2:] == [("r4", "r5"), ("r6", "r7")]
    assert scheduler.counters.stops == 0


def test_equal_lengths_run_as_static_batches():
    jobs = [Job(n, natural_length=20) for n in range(8)]
    scheduler, engine = run_scheduler(*jobs, rows=4)

    outputs_of(scheduler)

    assert len(runs_of(engine)) == 2
    assert scheduler.counters.stops == scheduler.counters.reprefilled_tokens == 0


def test_the_waste_of_a_run_pays_for_the_stop():
    """A lonely row wastes half of its step, and a stop costs one step."""
    scheduler, _ = run_scheduler(Job(0, natural_length=90), Job(1), Job(2))

    assert 3 + 2 <= ends_of(scheduler)["r2"].slots.waited_steps <= 3 + 3


@pytest.mark.parametrize("warm_up_s", [0.0, 100.0])
def test_late_requests_do_not_wait_for_long_ones(warm_up_s):
    """Five rows go on for long when three short requests arrive."""
    later = [Job(n, natural_length=4) for n in range(5, 8)]
    scheduler, engine = run_scheduler(
        *(Job(n, natural_length=90) for n in range(5)),
        later=later,
        rows=8,
        costs=attrs.evolve(CHEAP, warm_up_s=warm_up_s),
    )
    scheduler.step()
    arrival = engine.now
    for job in later:
        scheduler.add_request(job.request)

    while scheduler.counters.runs == 1:
        scheduler.step()

    assert engine.now - arrival <= PATIENCE + 2
    assert list(ends_of(scheduler))[:3] == ["r5", "r6", "r7"]


def test_a_request_waits_for_a_free_row_no_longer_than_patience():
    """A step of this engine costs its live rows alone, so no idle row is a waste."""
    jobs = [
        Job(0, natural_length=240, max_new_tokens=1500),
        Job(1, natural_length=2, max_new_tokens=1500),
        Job(2, max_new_tokens=1500),
    ]
    costs = StepCosts(step_s=1e-9, row_s=1.0, call_s=1.0, prompt_token_s=0.05)
    scheduler, engine = run_scheduler(*jobs, costs=costs, max_model_len=2000)

    freed_at = began_at = None
    while began_at is None:
        before = scheduler.counters.runs
        outputs = scheduler.step()
        if any(o.request_id == "r1" and o.finish_reason for o in outputs):
            freed_at = engine.now
        if freed_at is not None and scheduler.counters.runs > before:
            began_at = engine.now

    context = 4 + began_at  # no shorter than the survivor's at the stop
    restart = 2 * (1 + context * 0.05)
    assert began_at - freed_at <= PATIENCE * restart + 2 + context * 0.05 * 2 < 60


def test_a_run_is_not_stopped_while_it_still_feeds_a_row():
    """Otherwise a long survivor could restart for ever."""
    jobs = [
        Job(0, natural_length=2),
        Job(1, prompt_length=120, natural_length=9),
        *(Job(n, natural_length=2) for n in range(2, 30)),
    ]
    scheduler, engine = run_scheduler(
        *jobs,
        traits=BatchTraits(prompt_work=PromptWork.STEPWISE),
        costs=StepCosts(step_s=1.0, call_s=0.0, prompt_token_s=0.0),
    )

    outputs = outputs_of(scheduler)

    assert sum("r1" in ids for ids in runs_of(engine)) <= 9
    assert sum(output.request_id == "r1" for output in outputs) == 9


# ------------------------------------------------------- requests that end in their run


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (SamplingParams(seed=0), [("r0", "r1"), ("r2", "r3")]),
        # A greedy request does not use its seed.
        (
            SamplingParams(seed=0, temperature=0),
            [("r0", "r1"), ("r0", "r2"), ("r0", "r3")],
        ),
    ],
    ids=["sampled", "greedy"],
)
def test_a_request_that_would_lose_state_is_never_stopped(params, expected):
    jobs = [attrs.evolve(job, params=params) for job in LONG_AND_SHORT]
    scheduler, engine = run_scheduler(*jobs, traits=BOUND)

    outputs_of(scheduler)

    assert runs_of(engine) == expected


def test_bad_words_without_their_texts_lose_state_too():
    traits = BatchTraits(run_bound_fields={"bad_words": "matched within a run"})
    scheduler, engine = run_scheduler(later=LONG_AND_SHORT, traits=traits)
    for job in LONG_AND_SHORT:
        words = {"bad_words_token_ids": ((1, 2),)}
        scheduler.add_request(attrs.evolve(job.request, **words))

    outputs_of(scheduler)

    assert runs_of(engine) == [("r0", "r1"), ("r2", "r3")]


def test_a_request_that_has_outgrown_the_longest_prompt_ends_in_its_run():
    jobs = [Job(0, natural_length=40), *(Job(n, natural_length=9) for n in (1, 2, 3))]
    scheduler, engine = run_scheduler(*jobs, max_prompt_len=10)

    assert tokens_of(scheduler) == {f"r{job.number}": job.tokens for job in jobs}
    assert runs_of(engine) == [("r0", "r1"), ("r2", "r3")]


# ----------------------------------------------------------- lengths chosen in advance


@pytest.mark.parametrize(
    ("max_tokens", "where", "expected"),
    [
        # Nothing is measured before the first run, which is a plain static batch.
        ([40, 3, 3, 3], slice(1), [("r0", "r1")]),
        (
            [5, 5, 9, 9, 60, 3, 3, 3],
            slice(2, 5),
            [("r4", "r5"), ("r4", "r6"), ("r4", "r7")],
        ),
    ],
    ids=["first run", "later runs"],
)
def test_a_run_that_cannot_be_stopped_ends_where_that_pays(max_tokens, where, expected):
    jobs = [
        Job(n, natural_length=99, max_new_tokens=most)
        for n, most in enumerate(max_tokens)
    ]
    scheduler, engine = run_scheduler(*jobs, traits=BatchTraits(can_stop=False))

    assert tokens_of(scheduler) == {f"r{job.number}": job.tokens for job in jobs}
    assert runs_of(engine)[where] == expected


@pytest.mark.parametrize(
    ("jobs", "max_prompt_len", "expected"),
    [
        (
            [
                Job(0, prompt_length=90, natural_length=9, max_new_tokens=10),
                Job(1, prompt_length=10, natural_length=60, max_new_tokens=80),
            ],
            None,
            [("r0", "r1"), ("r1",)],
        ),
        # r1 would have outgrown the longest prompt at the end of a run with r0.
        (
            [
                Job(0, prompt_length=50, natural_length=9, max_new_tokens=10),
                Job(1, prompt_length=38, natural_length=50, max_new_tokens=60),
                Job(2, prompt_length=50, natural_length=9, max_new_tokens=10),
            ],
            50,
            [("r0", "r2"), ("r1",)],
        ),
    ],
    ids=["ends the run", "keeps requests apart"],
)
def test_a_shared_context_limits_a_run(jobs, max_prompt_len, expected):
    scheduler, engine = run_scheduler(
        *jobs,
        traits=BatchTraits(shared_context=True),
        max_model_len=100,
        max_prompt_len=max_prompt_len,
    )

    assert tokens_of(scheduler) == {f"r{job.number}": job.tokens for job in jobs}
    assert runs_of(engine) == expected


# --------------------------------------------------------------------- measured costs


def test_the_seconds_of_a_prompt_token_exclude_the_call():
    jobs = [Job(n, prompt_length=3, natural_length=4) for n in range(8)]
    scheduler, _ = run_scheduler(*jobs)

    outputs_of(scheduler)

    assert scheduler.stats()["prompt_token_seconds"] == pytest.approx(0.001)


def test_the_seconds_of_a_step_are_learned_from_several_at_once():
    class InFours(ScriptedBatchEngine):
        def run(self, rows, *, max_new_tokens):
            self.now += 3.0
            yield RunStep([RowTokens(row=0, token_ids=(5,))])
            self.now += 8.0
            yield RunStep([RowTokens(row=0, token_ids=(5, 5, 5, 5))], num_steps=4)

    scheduler, _ = run_scheduler(Job(0, max_new_tokens=5), engine=InFours)

    outputs_of(scheduler)

    assert scheduler.stats()["step_seconds"] == 2.0
