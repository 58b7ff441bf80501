# SPDX-License-Identifier: Apache-2.0

"""Schedulers over scripted engines, and what they return until all requests have ended."""

from __future__ import annotations

from collections.abc import Sequence

from strategies import Job, script_of

from unillm.engines.base import Engine, EngineOutput
from unillm.scheduling.runs import RunScheduler
from unillm.scheduling.slots import SlotScheduler
from unillm.testing.batches import ScriptedBatchEngine, StepCosts
from unillm.testing.scripted import ScriptedSlotEngine

CHEAP = StepCosts(step_s=1.0, call_s=1.0, prompt_token_s=0.001)
"""Prompts cost next to nothing, so a stop costs about one step."""


def slot_scheduler(
    *jobs: Job,
    later: Sequence[Job] = (),
    slots: int = 2,
    budget: int = 100,
    engine=ScriptedSlotEngine,
    **options,
):
    """Return a scheduler that has the jobs' requests, and its engine.

    The engine's script has the *later* jobs too, for the test to add.
    """
    engine = engine(script_of([*jobs, *later]), num_slots=slots, **options)
    scheduler = SlotScheduler(engine, max_num_batched_tokens=budget)
    for job in jobs:
        scheduler.add_request(job.request)
    return scheduler, engine


def run_scheduler(
    *jobs: Job,
    later: Sequence[Job] = (),
    rows: int = 2,
    costs=CHEAP,
    engine=ScriptedBatchEngine,
    **options,
):
    """Return a scheduler that has the jobs' requests, and its engine.

    The engine's script has the *later* jobs too, for the test to add.
    """
    engine = engine(script_of([*jobs, *later]), max_rows=rows, costs=costs, **options)
    scheduler = RunScheduler(engine, clock=engine.clock)
    for job in jobs:
        scheduler.add_request(job.request)
    return scheduler, engine


def runs_of(engine: ScriptedBatchEngine) -> list[tuple[str, ...]]:
    """Return the request ids of each run so far."""
    return [call[1] for call in engine.calls if call[0] == "run"]


def outputs_of(scheduler: Engine) -> list[EngineOutput]:
    """Step until all requests have ended; return all outputs."""
    outputs = []
    while scheduler.has_unfinished():
        outputs += scheduler.step()
        scheduler.check()
    return outputs


def ends_of(scheduler: Engine) -> dict[str, EngineOutput]:
    """Step until all requests have ended; return their last outputs by id, in order."""
    return {o.request_id: o for o in outputs_of(scheduler) if o.finish_reason}


def tokens_of(scheduler: Engine) -> dict[str, tuple[int, ...]]:
    """Step until all requests have ended; return the tokens by id, in order of ends."""
    outputs = outputs_of(scheduler)
    return {
        end.request_id: tuple(
            token
            for output in outputs
            if output.request_id == end.request_id
            for token in output.token_ids
        )
        for end in outputs
        if end.finish_reason
    }
