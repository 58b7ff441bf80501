# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import attrs
import pytest
from strategies import END, Job, script_of

from unillm import LoRARequest
from unillm.engines.slots import SlotToken
from unillm.errors import ConfigError, InvalidParameterError
from unillm.scheduling.adapter_gate import OVERTAKES_PER_SLOT
from unillm.scheduling.slots import SlotScheduler
from unillm.testing.scripted import ScriptedSlotEngine


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


def scheduler_of(*jobs: Job, slots: int = 2, budget: int = 100):
    engine = ScriptedSlotEngine(script_of(list(jobs)), num_slots=slots)
    scheduler = SlotScheduler(engine, max_num_batched_tokens=budget)
    for each in jobs:
        scheduler.add_request(each.request)
    return scheduler, engine


def finish_order(scheduler: SlotScheduler) -> list[str]:
    order = []
    while scheduler.has_unfinished():
        order += [o.request_id for o in scheduler.step() if o.finish_reason]
    return order


def test_a_freed_slot_is_refilled_in_the_next_step():
    jobs = [job(0, natural_length=2), job(1, natural_length=9), job(2)]
    scheduler, engine = scheduler_of(*jobs)

    scheduler.step()  # r0 ends: one token from the prefill, one from the decode
    scheduler.step()

    assert engine.calls[-2:] == [("prefill", (0,)), ("decode", (1, 0))]


def test_a_request_of_one_token_gives_its_slot_back_within_the_step():
    jobs = [job(n, max_new_tokens=1) for n in range(5)]
    scheduler, _ = scheduler_of(*jobs, slots=2)

    outputs = scheduler.step()

    assert [f"r{n}" for n in range(5)] == [o.request_id for o in outputs]
    assert not scheduler.has_unfinished()


def test_lower_priority_numbers_go_first_and_ties_by_arrival():
    jobs = [job(0), job(1, priority=5), job(2, priority=-1), job(3)]
    scheduler, _ = scheduler_of(*jobs, slots=1)

    assert finish_order(scheduler) == ["r2", "r0", "r3", "r1"]


def test_a_long_prompt_does_not_stall_the_rows_that_decode():
    scheduler, engine = scheduler_of(job(0, natural_length=50), slots=2, budget=10)
    scheduler.step()
    scheduler.add_request(
        job(0, prompt_length=35).request.__class__(
            request_id="long",
            prompt_token_ids=tuple(range(1, 36)),
            params=job(0).request.params,
            stop_token_ids=frozenset({END}),
            max_new_tokens=5,
            seed=0,
            arrival=1,
        )
    )

    told = [{o.request_id for o in scheduler.step()} for _ in range(4)]

    assert told == [{"r0"}, {"r0"}, {"r0"}, {"r0", "long"}]
    assert sum(call[0] == "prefill" for call in engine.calls) == 5


def test_an_aborted_waiting_request_never_reaches_the_engine():
    scheduler, engine = scheduler_of(job(0, natural_length=5), job(1), slots=1)
    scheduler.step()

    scheduler.abort(["r1"])

    assert finish_order(scheduler) == ["r0"]
    assert [c for c in engine.calls if c[0] == "prefill"] == [("prefill", (0,))]


def test_an_abort_in_the_middle_of_a_prompt_frees_the_slot():
    scheduler, _ = scheduler_of(job(0, prompt_length=30), job(1), slots=1, budget=10)
    scheduler.step()

    scheduler.abort(["r0"])

    assert finish_order(scheduler) == ["r1"]
    scheduler.check()


def test_unknown_ids_are_not_aborted():
    scheduler, _ = scheduler_of(job(0))

    scheduler.abort(["nobody"])

    assert scheduler.stats()["aborted"] == 0


def test_a_row_that_fails_takes_no_other_with_it():
    class Failing(ScriptedSlotEngine):
        def decode(self, slots):
            tokens = list(super().decode(slots))
            return [
                SlotToken(0, error="non-finite logits") if slot == 1 else token
                for slot, token in zip(slots, tokens, strict=True)
            ]

    jobs = [job(0, natural_length=4), job(1, natural_length=4)]
    engine = Failing(script_of(jobs), num_slots=2)
    scheduler = SlotScheduler(engine)
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


def test_metrics_tell_what_a_request_cost():
    jobs = [job(0, natural_length=3), job(1, prompt_length=25, natural_length=4)]
    scheduler, _ = scheduler_of(*jobs, slots=1, budget=10)

    ended = []
    while scheduler.has_unfinished():
        ended += [o.slots for o in scheduler.step() if o.finish_reason]

    assert (
        ended[0].waited_steps,
        ended[0].prefill_chunks,
        ended[0].decode_steps,
    ) == (0, 1, 2)
    assert (
        ended[1].waited_steps,
        ended[1].prefill_chunks,
        ended[1].decode_steps,
    ) == (2, 3, 3)


def test_a_step_without_work_does_nothing():
    scheduler, engine = scheduler_of()

    assert scheduler.step() == []
    assert engine.calls == []


def test_closing_closes_the_slot_engine():
    scheduler, engine = scheduler_of()

    with scheduler:
        pass

    assert engine.calls == [("close",)]


def test_a_budget_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="max_num_batched_tokens must be ≥ 1, got 0"):
        SlotScheduler(ScriptedSlotEngine(lambda *_: 1), max_num_batched_tokens=0)


# ---------------------------------------------------------------------------- adapters


class OneAdapterEngine(ScriptedSlotEngine):
    """Rows may have one adapter at a time, and those that have none."""

    max_loras = 1

    def check_request(self, request):
        if request.lora_request == LoRARequest("broken", 9, "/broken"):
            raise InvalidParameterError("broken", parameter="lora_request")


def with_adapter(number: int, adapter: int | None, **fields):
    lora = None if adapter is None else LoRARequest("a", adapter, f"/{adapter}")
    return attrs.evolve(job(number, **fields).request, lora_request=lora)


def one_adapter_scheduler(requests, *, slots=2):
    script = script_of([job(n, natural_length=3 if n else 100) for n in range(300)])
    scheduler = SlotScheduler(OneAdapterEngine(script, num_slots=slots))
    for request in requests:
        scheduler.add_request(request)
    return scheduler


def test_a_request_whose_adapter_has_no_place_waits_and_others_pass_it():
    requests = [with_adapter(n, adapter) for n, adapter in enumerate([1, 2, None, 1])]
    scheduler = one_adapter_scheduler(requests)

    first = [output.request_id for output in scheduler.step()]

    assert first == ["r0", "r2", "r0", "r2"]
    assert scheduler.stats()["waiting"] == 2
    assert {"r0", "r2", *finish_order(scheduler)} == {"r0", "r1", "r2", "r3"}
    scheduler.check()


def test_rows_never_have_more_adapters_than_allowed():
    requests = [with_adapter(n, n % 3 or None) for n in range(60)]
    scheduler = one_adapter_scheduler(requests, slots=4)
    most = 0

    while scheduler.has_unfinished():
        scheduler.step()
        running = scheduler._running.values()
        adapters = {each.request.lora_request for each in running} - {None}
        most = max(most, len(adapters))

    assert most == 1
    assert scheduler.counters.finished == 60


def test_a_request_is_not_passed_for_ever():
    """The first keeps its adapter long; what shares it does not pass without end."""
    requests = [with_adapter(0, 1), with_adapter(1, 2)]
    requests += [with_adapter(number, 1) for number in range(2, 300)]
    scheduler = one_adapter_scheduler(requests)

    order = finish_order(scheduler)

    assert order[OVERTAKES_PER_SLOT * 2] == "r0"
    assert order[OVERTAKES_PER_SLOT * 2 + 1] == "r1"


def test_a_request_that_the_engine_refuses_is_not_kept():
    scheduler = one_adapter_scheduler([])
    broken = attrs.evolve(
        job(0).request, lora_request=LoRARequest("broken", 9, "/broken")
    )

    with pytest.raises(InvalidParameterError, match="broken"):
        scheduler.add_request(broken)

    assert not scheduler.has_unfinished()
    scheduler.check()


# --------------------------------------------------------------------- what is counted


def test_statistics_say_what_there_is_and_what_was_done():
    jobs = [job(0, natural_length=2), job(1, natural_length=4), job(2)]
    scheduler, _ = scheduler_of(*jobs)
    scheduler.step()
    assert {
        name: scheduler.stats()[name] for name in ("num_slots", "running", "waiting")
    } == {"num_slots": 2, "running": 1, "waiting": 1}

    finish_order(scheduler)

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
        "prefill_padding": 0,
        "generated_tokens": 9,
    }


def test_a_slot_is_refilled_where_it_had_an_owner_and_others_run():
    jobs = [job(0, natural_length=2), job(1, natural_length=9), *map(job, (2, 3, 4))]
    scheduler = SlotScheduler(ScriptedSlotEngine(script_of(jobs), num_slots=3))
    scheduler.add_request(jobs[0].request)
    scheduler.add_request(jobs[1].request)
    told = scheduler.step()
    for late in jobs[2:4]:  # one takes the slot of r0, the other a fresh one
        scheduler.add_request(late.request)
    while scheduler.has_unfinished():
        told += scheduler.step()
    scheduler.add_request(jobs[4].request)  # all slots had owners, and nobody runs
    while scheduler.has_unfinished():
        told += scheduler.step()

    refilled = {o.request_id: o.slots.refilled for o in told if o.finish_reason}
    assert refilled == {"r0": False, "r1": False, "r2": True, "r3": False, "r4": False}
    assert scheduler.counters.refills == 1


def test_padding_is_summed_over_the_chunks_of_a_prompt():
    class Padding(ScriptedSlotEngine):
        def prefill(self, chunks):
            result = super().prefill(chunks)
            return attrs.evolve(result, padding=[3 + chunk.slot for chunk in chunks])

    jobs = [job(0, prompt_length=25), job(1)]
    scheduler = SlotScheduler(
        Padding(script_of(jobs), num_slots=2), max_num_batched_tokens=10
    )
    for each in jobs:
        scheduler.add_request(each.request)

    ended = {}
    while scheduler.has_unfinished():
        ended |= {o.request_id: o.slots for o in scheduler.step() if o.finish_reason}

    assert (ended["r0"].prefill_padding, ended["r1"].prefill_padding) == (9, 4)
    assert scheduler.counters.prefill_padding == 13


def test_log_probabilities_of_a_prompt_come_once_and_whole_with_the_first_token():
    told = [{n: -float(n)} for n in range(24)]
    engine = ScriptedSlotEngine(
        script_of([job(0, natural_length=3)]), prompt_script=lambda _: told
    )
    scheduler = SlotScheduler(engine, max_num_batched_tokens=10)
    scheduler.add_request(job(0, prompt_length=25).request)

    outputs = []
    while scheduler.has_unfinished():
        outputs += scheduler.step()

    assert [told, None, None] == [output.prompt_logprobs for output in outputs]


def test_a_prompt_that_cannot_be_split_is_computed_at_once():
    class Whole(ScriptedSlotEngine):
        splits_prompts = False

    scheduler = SlotScheduler(
        Whole(script_of([job(0, prompt_length=35)])), max_num_batched_tokens=10
    )
    scheduler.add_request(job(0, prompt_length=35).request)

    [first, _] = scheduler.step()

    assert first.slots.prefill_chunks == 1


@pytest.mark.parametrize("call", ["prefill", "decode"])
def test_an_engine_that_answers_for_too_few_rows_is_not_believed(call):
    class Short(ScriptedSlotEngine):
        def prefill(self, chunks):
            result = super().prefill(chunks)
            if call == "decode":
                return result
            return attrs.evolve(result, tokens=result.tokens[:-1])

        def decode(self, slots):
            return list(super().decode(slots))[: -1 if call == "decode" else None]

    jobs = [job(0, natural_length=9), job(1, natural_length=9)]
    scheduler = SlotScheduler(Short(script_of(jobs), num_slots=2))
    for each in jobs:
        scheduler.add_request(each.request)

    with pytest.raises(ValueError, match="shorter"):
        scheduler.step()


def test_the_limits_are_those_of_the_rows():
    engine = ScriptedSlotEngine(
        lambda *_: 1, num_slots=3, max_model_len=99, vocab_size=7
    )
    limits = SlotScheduler(engine).limits

    assert (limits.max_model_len, limits.max_num_seqs, limits.vocab_size) == (99, 3, 7)


def test_a_failed_row_tells_what_it_cost_and_frees_its_slot():
    jobs = [job(0, natural_length=9), job(1, natural_length=2)]
    script = script_of(jobs)

    def failing(request, position):
        broken = request.request_id == "r0" and position == 2
        return SlotToken(0, error="NaN") if broken else script(request, position)

    scheduler = SlotScheduler(ScriptedSlotEngine(failing, num_slots=1))
    for each in jobs:
        scheduler.add_request(each.request)

    outputs = []
    while scheduler.has_unfinished():
        outputs += scheduler.step()
        scheduler.check()

    [failed] = [output for output in outputs if output.error]
    assert (
        failed.request_id,
        failed.finish_reason,
        failed.token_ids,
    ) == ("r0", "error", ())
    assert (failed.slots.prefill_chunks, failed.slots.decode_steps) == (1, 2)
    assert (
        scheduler.counters.failed,
        scheduler.counters.finished,
        scheduler.counters.generated_tokens,
    ) == (1, 1, 4)


def test_log_probabilities_of_a_token_come_with_it():
    def script(request, position):
        return SlotToken(5, logprobs={5: -0.5}) if position else SlotToken(6)

    scheduler = SlotScheduler(ScriptedSlotEngine(script))
    scheduler.add_request(job(0).request)

    [first, second] = scheduler.step()

    assert (first.logprobs, second.logprobs) == (None, ({5: -0.5},))
