# SPDX-License-Identifier: Apache-2.0

"""Runs and their requests; `test_stop_rule` has how long a run goes on."""

from __future__ import annotations

import attrs
import pytest
from scheduled import CHEAP, ends_of, outputs_of, run_scheduler, runs_of, tokens_of
from strategies import Job

from unillm.engines.batches import BatchTraits, PromptWork, RowTokens, RunStep
from unillm.errors import InvalidParameterError, PluginError
from unillm.scheduling import runs as runs_module
from unillm.testing.batches import ScriptedBatchEngine

DEAR = attrs.evolve(CHEAP, prompt_token_s=1.0)


class Recording(ScriptedBatchEngine):
    """Keeps the rows of its runs."""

    def __init__(self, script, **options):
        super().__init__(script, **options)
        self.seen = []

    def run(self, rows, *, max_new_tokens):
        self.seen.append(rows)
        return super().run(rows, max_new_tokens=max_new_tokens)


def test_a_survivor_continues_with_its_new_tokens():
    jobs = [Job(0, natural_length=40), Job(1), Job(2)]
    scheduler, engine = run_scheduler(*jobs, engine=Recording)

    outputs_of(scheduler)

    survivor = engine.seen[1][0]
    count = len(survivor.generated)
    assert count > 0
    assert survivor.generated == jobs[0].tokens[:count]
    assert survivor.prompt_token_ids == (
        *jobs[0].request.prompt_token_ids,
        *survivor.generated,
    )
    assert survivor.max_new_tokens == 100 - count


# ------------------------------------------------------------- the requests of one run


def test_requests_of_two_groups_take_turns():
    jobs = [Job(n, natural_length=60 if n < 4 else 5) for n in range(8)]
    scheduler, engine = run_scheduler(
        *jobs, rows=4, group=lambda request: request.seed % 2
    )

    assert tokens_of(scheduler) == {f"r{job.number}": job.tokens for job in jobs}
    assert all(len({int(i[1:]) % 2 for i in ids}) == 1 for ids in runs_of(engine))


def test_groups_need_no_order():
    """A survivor and a request of another group become ready at the same step."""
    lengths = [5, 5, 9, 9, 60, 3, 3, 3]
    jobs = [Job(n, natural_length=99, max_new_tokens=m) for n, m in enumerate(lengths)]
    scheduler, _ = run_scheduler(
        *jobs,
        later=[Job(8)],
        traits=BatchTraits(can_stop=False),
        group=lambda request: complex(request.seed == 8),
    )
    while scheduler.step():  # the step that ends a run with a survivor is empty
        pass
    scheduler.abort(["r6", "r7"])  # they waited longer
    scheduler.add_request(Job(8).request)

    outputs_of(scheduler)

    assert scheduler.counters.finished == 7


def test_requests_that_end_together_run_together():
    """The first request in line, and those behind it whose length is nearest."""
    lengths = [9, 90, 8, 91, 9, 92]
    jobs = [Job(n, natural_length=200, max_new_tokens=m) for n, m in enumerate(lengths)]
    scheduler, engine = run_scheduler(*jobs, rows=3)

    outputs_of(scheduler)

    assert runs_of(engine) == [("r0", "r4", "r2"), ("r1", "r3", "r5")]


def test_at_most_a_window_of_later_requests_overtakes_one(monkeypatch):
    """Each of seven before a long one has seven behind it that fit better."""
    monkeypatch.setattr(runs_module, "WINDOW", 2)
    different = range(20, 90, 10)
    lengths = [*[10] * 8, *different, 300, *(n for n in different for _ in range(7))]
    jobs = [Job(n, max_new_tokens=m) for n, m in enumerate(lengths)]
    scheduler, engine = run_scheduler(*jobs, rows=8, max_model_len=512)

    outputs_of(scheduler)

    order = [int(request_id[1:]) for ids in runs_of(engine) for request_id in ids]
    for position, number in enumerate(order):
        assert sum(later > number for later in order[:position]) <= 2 * 8


def test_fed_prompts_of_similar_length_run_together():
    jobs = [Job(n, prompt_length=length) for n, length in enumerate([5, 50, 6, 51])]
    scheduler, engine = run_scheduler(
        *jobs, traits=BatchTraits(prompt_work=PromptWork.STEPWISE)
    )

    outputs_of(scheduler)

    assert runs_of(engine) == [("r0", "r2"), ("r1", "r3")]


def test_lower_priority_numbers_go_first_and_ties_by_arrival():
    jobs = [Job(0), Job(1, priority=5), Job(2, priority=-1), Job(3)]
    scheduler, _ = run_scheduler(*jobs, rows=1)

    assert list(ends_of(scheduler)) == ["r2", "r0", "r3", "r1"]


def test_a_refused_request_is_not_kept():
    class Choosy(ScriptedBatchEngine):
        def check_request(self, request):
            raise InvalidParameterError(request.request_id, parameter="top_p")

    scheduler, _ = run_scheduler(engine=Choosy)

    with pytest.raises(InvalidParameterError, match="r0"):
        scheduler.add_request(Job(0).request)

    assert not scheduler.has_unfinished()


# ------------------------------------------------------------------- tokens and errors


def test_fed_prompts_receive_their_first_token_later():
    scheduler, _ = run_scheduler(
        Job(0),
        Job(1, prompt_length=9),
        traits=BatchTraits(prompt_work=PromptWork.STEPWISE),
    )

    steps = [[o.request_id for o in scheduler.step()] for _ in range(4)]

    assert steps == [["r0"], ["r0"], ["r0"], ["r1"]]


def test_tokens_after_the_end_of_a_row_are_dropped():
    class Chunks(ScriptedBatchEngine):
        """Yields many tokens at once, and continues after each end."""

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

    scheduler, _ = run_scheduler(
        Job(0, max_new_tokens=6), Job(1, max_new_tokens=2), engine=Chunks
    )

    outputs = scheduler.step()

    assert [
        (o.request_id, o.token_ids, o.finish_reason, o.stop_token_id) for o in outputs
    ] == [("r0", (5, 6, 0), "stop", 0), ("r1", (5, 6), "length", None)]
    assert not scheduler.has_unfinished()


def test_logprobs_end_with_the_tokens():
    class Logprobs(ScriptedBatchEngine):
        def run(self, rows, *, max_new_tokens):
            row = RowTokens(
                row=0,
                token_ids=(5, 6, 0, 7),
                logprobs=tuple({n: -float(n)} for n in range(4)),
                prompt_logprobs=({1: 0.0}, {2: 0.0}, {3: 0.0}),
            )
            yield RunStep([row], num_steps=4)

    scheduler, _ = run_scheduler(Job(0), engine=Logprobs)

    [output] = scheduler.step()

    assert output.token_ids == (5, 6, 0)
    assert (len(output.logprobs), len(output.prompt_logprobs)) == (3, 3)


def test_failed_rows_leave_the_others_alone():
    class Failing(ScriptedBatchEngine):
        def run(self, rows, *, max_new_tokens):
            for step in super().run(rows, max_new_tokens=max_new_tokens):
                news = [
                    RowTokens(row=each.row, error="non-finite logits")
                    if each.row
                    else each
                    for each in step.rows
                ]
                yield attrs.evolve(step, rows=news)

    jobs = [Job(n, natural_length=4) for n in range(3)]
    scheduler, _ = run_scheduler(*jobs, rows=3, engine=Failing)

    ends = ends_of(scheduler)

    failed = ends["r1"]
    assert ends["r0"].finish_reason == "stop"
    assert (failed.finish_reason, failed.error) == ("error", "non-finite logits")
    assert (failed.slots.prefill_chunks, failed.slots.decode_steps) == (1, 0)
    assert (scheduler.counters.failed, scheduler.counters.finished) == (2, 1)


def test_a_run_that_ends_too_soon_is_an_error_of_the_plugin():
    class Short(ScriptedBatchEngine):
        def run(self, rows, *, max_new_tokens):
            yield RunStep([RowTokens(row=0, token_ids=(5,))])

    scheduler, _ = run_scheduler(Job(0), engine=Short)
    scheduler.step()

    with pytest.raises(PluginError, match="after 1 of 100 steps, and 1 of its rows"):
        scheduler.step()


# -------------------------------------------------------------------- aborts and closing


def test_an_aborted_request_leaves_its_run_to_the_others():
    jobs = [Job(0, natural_length=6), Job(1, natural_length=90)]
    scheduler, engine = run_scheduler(*jobs)
    [first, _] = scheduler.step()

    scheduler.abort(["r1"])

    [(request_id, rest)] = tokens_of(scheduler).items()
    assert (request_id, (*first.token_ids, *rest)) == ("r0", jobs[0].tokens)
    assert engine.now < 10


def test_a_run_whose_requests_are_all_aborted_is_closed():
    scheduler, engine = run_scheduler(Job(0, natural_length=90))
    scheduler.step()

    scheduler.abort(["r0", "unknown"])

    engine.check_idle()
    assert not scheduler.has_unfinished()
    assert scheduler.counters.aborted == 1


def test_a_request_between_two_runs_can_be_aborted():
    """A run that cannot be stopped has ended, and its survivor waits for the next."""
    lengths = [5, 5, 9, 9, 60, 3, 3, 3]
    jobs = [Job(n, natural_length=99, max_new_tokens=m) for n, m in enumerate(lengths)]
    scheduler, engine = run_scheduler(*jobs, traits=BatchTraits(can_stop=False))
    while not scheduler._between:
        scheduler.step()

    scheduler.abort(["r4"])

    assert "r4" not in ends_of(scheduler)
    assert (scheduler.counters.aborted, scheduler.counters.finished) == (1, 7)
    assert sum("r4" in ids for ids in runs_of(engine)) == 1


def test_the_engine_learns_which_rows_have_ended():
    ended = []

    class Ending(ScriptedBatchEngine):
        def end_row(self, row):
            ended.append(row)
            super().end_row(row)

    jobs = [Job(0, natural_length=9), Job(1, natural_length=2), Job(2)]
    scheduler, _ = run_scheduler(*jobs, rows=3, engine=Ending)
    scheduler.step()
    scheduler.abort(["r0"])

    outputs_of(scheduler)

    assert ended == [0, 1, 2]


def test_a_step_without_work_does_nothing():
    scheduler, engine = run_scheduler()

    assert scheduler.step() == []
    assert engine.calls == []


def test_closing_ends_the_run_and_closes_the_engine():
    scheduler, engine = run_scheduler(Job(0, natural_length=90))

    with scheduler:
        scheduler.step()

    engine.check_idle()
    assert engine.calls[-1] == ("close",)
    scheduler.close()  # a second call does nothing


# ------------------------------------------------------------------------------ counters


def test_prompt_tokens_are_counted_apart_from_tokens_of_survivors():
    jobs = [
        Job(0, natural_length=90),
        Job(1, natural_length=80, prompt_length=7),
        *(Job(n, natural_length=2) for n in (2, 3, 4, 5)),
    ]
    scheduler, engine = run_scheduler(*jobs, rows=3, engine=Recording)

    outputs_of(scheduler)

    rows = [row for seen in engine.seen for row in seen]
    again = [len(row.prompt_token_ids) for row in rows if row.generated]
    assert len(again) > 2
    assert scheduler.counters.reprefilled_tokens == sum(again)
    assert scheduler.counters.prompt_tokens == 4 * 5 + 7


def test_statistics_have_the_state_the_counters_and_the_costs():
    jobs = [Job(0, natural_length=4), Job(1, natural_length=2), Job(2)]
    scheduler, _ = run_scheduler(*jobs, costs=DEAR)
    scheduler.step()
    stats = scheduler.stats()
    assert (stats["max_rows"], stats["running"], stats["waiting"]) == (2, 2, 1)

    outputs_of(scheduler)

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
        # The measured value is 10, but a step of one row takes no longer than 1.
        "prompt_token_seconds": 1.0,
    }


def test_metrics_count_the_work_of_a_request():
    scheduler, _ = run_scheduler(Job(0, natural_length=40), Job(1), Job(2))

    metrics = {request_id: end.slots for request_id, end in ends_of(scheduler).items()}

    first = metrics["r1"]
    assert (first.waited_steps, first.refilled) == (0, False)
    assert (first.prefill_chunks, first.decode_steps) == (1, 3)
    assert (metrics["r0"].prefill_chunks, metrics["r0"].decode_steps) == (2, 40)
    assert metrics["r2"].refilled
    assert metrics["r2"].waited_steps > 0


def test_waited_steps_count_from_the_arrival():
    scheduler, _ = run_scheduler(Job(0, natural_length=9), later=[Job(1)], rows=1)
    for _ in range(4):
        scheduler.step()
    scheduler.add_request(Job(1).request)

    # Steps 5 to 9 belong to r0.
    assert ends_of(scheduler)["r1"].slots.waited_steps == 5


def test_padding_counts_for_the_shorter_prompts_of_each_run():
    jobs = [
        Job(0, prompt_length=2, natural_length=40),
        Job(1, prompt_length=20, natural_length=2),
        Job(2, prompt_length=90, natural_length=2),
    ]
    scheduler, engine = run_scheduler(
        *jobs, traits=BatchTraits(prompt_work=PromptWork.PADDED)
    )

    padding = {i: end.slots.prefill_padding for i, end in ends_of(scheduler).items()}

    assert runs_of(engine) == [("r0", "r1"), ("r0", "r2")]
    again = scheduler.counters.reprefilled_tokens
    assert padding == {"r0": 18 + (90 - again), "r1": 0, "r2": 0}
    assert scheduler.counters.prefill_padding == padding["r0"]
