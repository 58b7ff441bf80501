# SPDX-License-Identifier: Apache-2.0

"""Requests with adapters, on an engine whose rows may have one at a time."""

from __future__ import annotations

import attrs
from scheduled import ends_of
from strategies import Job, script_of

from unillm import LoRARequest
from unillm.scheduling.adapter_gate import OVERTAKES_PER_SLOT
from unillm.scheduling.slots import SlotScheduler
from unillm.testing.scripted import ScriptedSlotEngine


class OneAdapterEngine(ScriptedSlotEngine):
    """Keeps the different adapters of its rows, step by step."""

    max_loras = 1

    def __init__(self, script, **options):
        super().__init__(script, **options)
        self.adapters = []

    def decode(self, slots):
        rows = {self._rows[slot].request.lora_request for slot in slots}
        self.adapters.append(rows - {None})
        return super().decode(slots)


def scheduler_of(*adapters: int | None, slots: int = 2):
    """Return a scheduler with a request for each adapter; r0 is long."""
    jobs = [Job(n, natural_length=3 if n else 100) for n in range(len(adapters))]
    engine = OneAdapterEngine(script_of(jobs), num_slots=slots)
    scheduler = SlotScheduler(engine)
    for job, adapter in zip(jobs, adapters, strict=True):
        lora = None if adapter is None else LoRARequest("a", adapter, f"/{adapter}")
        scheduler.add_request(attrs.evolve(job.request, lora_request=lora))
    return scheduler, engine


def test_a_request_whose_adapter_does_not_fit_waits_and_others_overtake_it():
    scheduler, _ = scheduler_of(1, 2, None, 1)

    first = [output.request_id for output in scheduler.step()]

    assert first == ["r0", "r2", "r0", "r2"]
    assert scheduler.stats()["waiting"] == 2
    assert ends_of(scheduler).keys() == {"r0", "r1", "r2", "r3"}


def test_rows_never_have_more_adapters_than_allowed():
    scheduler, engine = scheduler_of(*(n % 3 or None for n in range(60)), slots=4)

    ends = ends_of(scheduler)

    assert len(ends) == 60
    assert max(map(len, engine.adapters)) == 1


def test_a_request_is_overtaken_a_bounded_number_of_times():
    """r0 keeps its adapter long, and the requests behind r1 share it."""
    scheduler, _ = scheduler_of(1, 2, *[1] * 298)

    order = list(ends_of(scheduler))

    assert order[OVERTAKES_PER_SLOT * 2 :][:2] == ["r0", "r1"]
