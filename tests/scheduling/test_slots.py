# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import attrs
import pytest
from scheduled import ends_of, outputs_of, slot_scheduler
from strategies import Job

from unillm.engines.slots import SlotToken
from unillm.errors import ConfigError, InvalidParameterError
from unillm.scheduling.slots import SlotScheduler
from unillm.testing.scripted import ScriptedSlotEngine

# ------------------------------------------------------------ admit, refill and retire


def test_a_freed_slot_is_refilled_in_the_next_step():
    jobs = [Job(0, natural_length=2), Job(1, natural_length=9), Job(2)]
    scheduler, engine = slot_scheduler(*jobs)

    scheduler.step()  # r0 ends: one token of the prefill, one of the decode
    scheduler.step()

    assert engine.calls[-2:] == [("prefill", (0,)), ("decode", (1, 0))]


def test_a_request_of_one_token_frees_its_slot_within_the_step():
    scheduler, _ = slot_scheduler(*(Job(n, max_new_tokens=1) for n in range(5)))

    outputs = scheduler.step()

    assert [output.request_id for output in outputs] == [f"r{n}" for n in range(5)]
    assert not scheduler.has_unfinished()


def test_lower_priority_numbers_go_first_and_ties_by_arrival():
    jobs = [Job(0), Job(1, priority=5), Job(2, priority=-1), Job(3)]
    scheduler, _ = slot_scheduler(*jobs, slots=1)

    assert list(ends_of(scheduler)) == ["r2", "r0", "r3", "r1"]


def test_a_long_prompt_does_not_stall_the_rows_that_decode():
    long = Job(1, prompt_length=35)
    scheduler, engine = slot_scheduler(
        Job(0, natural_length=50), later=[long], budget=10
    )
    scheduler.step()
    scheduler.add_request(long.request)

    steps = [{o.request_id for o in scheduler.step()} for _ in range(4)]

    assert steps == [{"r0"}, {"r0"}, {"r0"}, {"r0", "r1"}]
    assert sum(call[0] == "prefill" for call in engine.calls) == 5


def test_an_unsplittable_prompt_takes_one_step():
    class Whole(ScriptedSlotEngine):
        splits_prompts = False

    scheduler, _ = slot_scheduler(Job(0, prompt_length=35), engine=Whole, budget=10)

    [first, _] = scheduler.step()

    assert first.slots.prefill_chunks == 1


def test_a_budget_below_one_is_refused():
    with pytest.raises(ConfigError, match="max_num_batched_tokens must be ≥ 1, got 0"):
        slot_scheduler(budget=0)


def test_a_refused_request_is_not_kept():
    class Choosy(ScriptedSlotEngine):
        def check_request(self, request):
            raise InvalidParameterError(request.request_id, parameter="top_p")

    scheduler, _ = slot_scheduler(engine=Choosy)

    with pytest.raises(InvalidParameterError, match="r0"):
        scheduler.add_request(Job(0).request)

    assert not scheduler.has_unfinished()
    scheduler.check()


# -------------------------------------------------------------------- aborts and closing


def test_an_aborted_waiting_request_never_reaches_the_engine():
    scheduler, engine = slot_scheduler(Job(0, natural_length=5), Job(1), slots=1)
    scheduler.step()

    scheduler.abort(["r1"])

    assert list(ends_of(scheduler)) == ["r0"]
    assert [c for c in engine.calls if c[0] == "prefill"] == [("prefill", (0,))]


def test_an_abort_in_the_middle_of_a_prompt_frees_the_slot():
    scheduler, _ = slot_scheduler(Job(0, prompt_length=30), Job(1), slots=1, budget=10)
    scheduler.step()

    scheduler.abort(["r0"])

    assert list(ends_of(scheduler)) == ["r1"]


def test_an_abort_ignores_unknown_ids():
    scheduler, _ = slot_scheduler(Job(0))

    scheduler.abort(["unknown"])

    assert scheduler.stats()["aborted"] == 0


def test_a_step_without_work_does_nothing():
    scheduler, engine = slot_scheduler()

    assert scheduler.step() == []
    assert engine.calls == []


def test_closing_closes_the_slot_engine():
    scheduler, engine = slot_scheduler()

    with scheduler:
        pass

    assert engine.calls == [("close",)]


# ------------------------------------------------------------------- tokens and errors


def test_failed_rows_free_their_slots_and_leave_the_others_alone():
    class Failing(ScriptedSlotEngine):
        def decode(self, slots):
            tokens = super().decode(slots)
            return [
                SlotToken(0, error="NaN")
                if self._rows[slot].generated > 2 and slot == 0
                else token
                for slot, token in zip(slots, tokens, strict=True)
            ]

    jobs = [
        Job(0, natural_length=9),
        Job(1, natural_length=9),
        Job(2, natural_length=9),
    ]
    scheduler, _ = slot_scheduler(*jobs, engine=Failing)

    ends = ends_of(scheduler)

    for failed in (ends["r0"], ends["r2"]):  # both in slot 0
        assert (failed.finish_reason, failed.error) == ("error", "NaN")
        assert failed.token_ids == ()
        assert (failed.slots.prefill_chunks, failed.slots.decode_steps) == (1, 2)
    assert ends["r1"].finish_reason == "stop"
    counters = scheduler.counters
    assert (counters.failed, counters.finished) == (2, 1)
    assert counters.generated_tokens == 2 + 9 + 2


@pytest.mark.parametrize("call", ["prefill", "decode"])
def test_an_answer_with_too_few_rows_is_an_error(call):
    class Short(ScriptedSlotEngine):
        def prefill(self, chunks):
            result = super().prefill(chunks)
            if call == "decode":
                return result
            return attrs.evolve(result, tokens=result.tokens[:-1])

        def decode(self, slots):
            return list(super().decode(slots))[: -1 if call == "decode" else None]

    jobs = [Job(0, natural_length=9), Job(1, natural_length=9)]
    scheduler, _ = slot_scheduler(*jobs, engine=Short)

    with pytest.raises(ValueError, match="shorter"):
        scheduler.step()


def test_logprobs_come_with_their_token():
    def script(request, position):
        return SlotToken(5, logprobs={5: -0.5}) if position else SlotToken(6)

    scheduler = SlotScheduler(ScriptedSlotEngine(script))
    scheduler.add_request(Job(0).request)

    [first, second] = scheduler.step()

    assert (first.logprobs, second.logprobs) == (None, ({5: -0.5},))


def test_prompt_logprobs_come_together_with_the_first_token():
    logprobs = [{n: -float(n)} for n in range(24)]
    scheduler, _ = slot_scheduler(
        Job(0, prompt_length=25), budget=10, prompt_script=lambda _: logprobs
    )

    outputs = outputs_of(scheduler)

    assert [each.prompt_logprobs for each in outputs] == [logprobs, None, None]


def test_the_limits_are_those_of_the_rows():
    _, engine = slot_scheduler(slots=3, max_model_len=99, vocab_size=7)

    limits = SlotScheduler(engine).limits

    assert (limits.max_model_len, limits.max_num_seqs, limits.vocab_size) == (99, 3, 7)


# ------------------------------------------------------------------------------ counters


def test_statistics_have_the_state_and_the_counters():
    jobs = [Job(0, natural_length=2), Job(1, natural_length=4), Job(2)]
    scheduler, _ = slot_scheduler(*jobs)
    scheduler.step()
    stats = scheduler.stats()
    assert (stats["num_slots"], stats["running"], stats["waiting"]) == (2, 1, 1)

    outputs_of(scheduler)

    assert scheduler.stats() == {
        "num_slots": 2,
        "running": 0,
        "waiting": 0,
        "steps": 3,
        "decode_steps": 3,
        "slot_steps": 6,
        "occupied_slot_steps": 6,
        "refills": 1,
        "admitted": 3,
        "finished": 3,
        "aborted": 0,
        "failed": 0,
        "prompt_tokens": 12,
        "cached_tokens": 0,
        "prefill_padding": 0,
        "generated_tokens": 9,
    }


def test_metrics_count_the_work_of_a_request():
    jobs = [Job(0), Job(1, prompt_length=25, natural_length=4)]
    scheduler, _ = slot_scheduler(*jobs, slots=1, budget=10)

    metrics = {request_id: end.slots for request_id, end in ends_of(scheduler).items()}

    assert {
        request_id: (each.waited_steps, each.prefill_chunks, each.decode_steps)
        for request_id, each in metrics.items()
    } == {"r0": (0, 1, 2), "r1": (2, 3, 3)}


def test_a_refill_takes_over_a_used_slot_while_others_run():
    jobs = [Job(0, natural_length=2), Job(1, natural_length=9)]
    later = [Job(2), Job(3), Job(4)]
    scheduler, _ = slot_scheduler(*jobs, later=later, slots=3)
    outputs = scheduler.step()
    for job in later[:2]:  # one takes the slot of r0, the other an unused one
        scheduler.add_request(job.request)
    outputs += outputs_of(scheduler)
    scheduler.add_request(later[2].request)  # all slots are used, and no request runs
    outputs += outputs_of(scheduler)

    refilled = {o.request_id: o.slots.refilled for o in outputs if o.finish_reason}
    assert refilled == {"r0": False, "r1": False, "r2": True, "r3": False, "r4": False}
    assert scheduler.counters.refills == 1


def test_padding_is_summed_over_the_chunks_of_a_prompt():
    class Padding(ScriptedSlotEngine):
        def prefill(self, chunks):
            result = super().prefill(chunks)
            return attrs.evolve(result, padding=[3 + chunk.slot for chunk in chunks])

    scheduler, _ = slot_scheduler(
        Job(0, prompt_length=25), Job(1), engine=Padding, budget=10
    )

    padding = {i: end.slots.prefill_padding for i, end in ends_of(scheduler).items()}

    assert padding == {"r0": 9, "r1": 4}
    assert scheduler.counters.prefill_padding == 13
