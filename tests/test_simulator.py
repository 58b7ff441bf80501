# SPDX-License-Identifier: Apache-2.0

"""The simulator: it proves the real code, replays exactly, and finds broken code."""

from __future__ import annotations

import random

import attrs
import pytest
from simulator import World, check, simulate
from simulator.__main__ import main

from unillm.engines.batches import BatchRow
from unillm.runtime.driver import Driver
from unillm.scheduling.admitted import AdmittedRequest
from unillm.scheduling.queue import WaitingQueue
from unillm.scheduling.runs import RunScheduler
from unillm.scheduling.slots import SlotScheduler


def world(seed, requests=400, **changes):
    return attrs.evolve(World.of(seed, requests), **changes)


def broken_rules(seeds=range(6), requests=400, scheduler="slots"):
    found = set()
    for seed in seeds:
        run = simulate(world(seed, requests, scheduler=scheduler))
        found |= {v.rule for v in check(run)}
    return found


@pytest.mark.parametrize("scheduler", ["slots", "runs"])
@pytest.mark.parametrize("seed", range(8))
def test_nothing_is_lost_doubled_or_mixed(seed, scheduler):
    assert check(simulate(world(seed, scheduler=scheduler))) == []


@pytest.mark.parametrize("seed", [3, 7])
def test_a_seed_replays_exactly(seed):
    first, second = simulate(world(seed)), simulate(world(seed))

    assert list(first) == list(second)
    assert first.digest == second.digest
    assert first.digest != simulate(world(seed + 1)).digest


def test_the_worlds_contain_every_kind_of_fault_and_end():
    events = [event for seed in range(30) for event in simulate(world(seed))]

    assert {event[1] for event in events if event[0] == "fault"} == {
        "raises",
        "hangs",
        "short",
        "extra",
    }
    assert {event[3] for event in events if event[0] == "end"} == {
        "",
        "EngineDeadError",
        "InvalidParameterError",
        "RequestCancelledError",
        "RequestFailedError",
        "RequestTimeoutError",
    }
    assert {"abort", "error", "length", "stop", None} >= {
        event[3] for event in events if event[0] == "say"
    }


# ------------------------------------------------- broken code breaks a rule of the proof


def test_a_lost_output_is_found(monkeypatch):
    deliver = Driver._deliver
    monkeypatch.setattr(
        Driver,
        "_deliver",
        lambda self, output: (
            None if output.request_id.endswith("7-0") else deliver(self, output)
        ),
    )

    # The driver itself finds that the engine has no unfinished request.
    assert "an error is true" in broken_rules()


def test_a_row_that_is_never_released_is_found(monkeypatch):
    def leak(self, running):
        del self._running[running.request.request_id]
        self._free.append(running.slot)

    monkeypatch.setattr(SlotScheduler, "_free_slot", leak)

    assert "an error is true" in broken_rules()  # raised by the scripted engine


def test_a_wrong_order_of_requests_is_found(monkeypatch):
    def pop_any(self):
        request = random.Random(len(self)).choice(list(self))
        self.remove(request.request_id)
        return request

    monkeypatch.setattr(WaitingQueue, "pop", pop_any)

    assert "rows are given by priority, then by arrival" in broken_rules()


def test_an_idle_row_is_found(monkeypatch):
    admit = SlotScheduler._admit
    monkeypatch.setattr(
        SlotScheduler,
        "_admit",
        lambda self, budget: None if self._running else admit(self, budget),
    )

    assert broken_rules() == {"no row is idle while a request waits"}


def test_a_wrong_end_is_found(monkeypatch):
    finish = SlotScheduler._finish_reason

    def one_too_many(running, *, stopped):
        running.generated -= 1
        reason = finish(running, stopped=stopped)
        running.generated += 1
        return reason

    monkeypatch.setattr(SlotScheduler, "_finish_reason", staticmethod(one_too_many))

    assert "tokens, text and end follow from the request alone" in broken_rules()


def test_swapped_tokens_are_found(monkeypatch):
    decode = SlotScheduler._decode

    def swap(self, live):
        outputs = decode(self, live)
        if len(outputs) > 1:
            first, second, *rest = outputs
            outputs = [
                attrs.evolve(first, token_ids=second.token_ids),
                attrs.evolve(second, token_ids=first.token_ids),
                *rest,
            ]
        return outputs

    monkeypatch.setattr(SlotScheduler, "_decode", swap)

    assert "tokens, text and end follow from the request alone" in broken_rules()


def test_a_lost_abort_is_found(monkeypatch):
    monkeypatch.setattr(SlotScheduler, "abort", lambda self, ids: None)

    assert "no output follows the end" in broken_rules()


def test_a_lost_survivor_is_found(monkeypatch):
    def forget(self, run):
        self._run = None

    monkeypatch.setattr(RunScheduler, "_leave", forget)

    assert "an error is true" in broken_rules(scheduler="runs")


def test_a_survivor_that_restarts_from_its_prompt_is_found(monkeypatch):
    monkeypatch.setattr(
        AdmittedRequest, "as_row", lambda self: BatchRow(request=self.request)
    )

    assert {
        "an error is true",
        "tokens, text and end follow from the request alone",
    } & broken_rules(scheduler="runs")


def test_a_missed_deadline_is_found(monkeypatch):
    monkeypatch.setattr(Driver, "_expire", lambda self: None)

    assert "a deadline ends a request" in broken_rules()


def test_a_queue_that_keeps_requests_is_found(monkeypatch):
    monkeypatch.setattr(Driver, "_leave_queue", lambda self, handle: None)

    assert "nothing is left at the end" in broken_rules()


# ---------------------------------------------------- bugs that the simulator has found


def test_a_request_ends_when_adding_it_kills_the_engine(monkeypatch):
    """A request that had left the inbox and was not in the engine waited for ever."""

    def dies(self, request):
        raise TypeError("an error of the plugin")

    monkeypatch.setattr(SlotScheduler, "add_request", dies)
    history = list(simulate(world(1, requests=1, scheduler="slots")))

    [end] = [event for event in history if event[0] == "end"]
    assert end[3] == "EngineDeadError"


def test_an_ended_request_is_not_kept_until_its_deadline():
    """An ended request with a late deadline stayed in memory until then."""
    rest = [event[1] for event in simulate(world(2)) if event[0] == "rest"]

    assert rest
    assert all(left["deadlines"] == 0 for left in rest)


# ------------------------------------------------------------------------ the command


def test_the_command_prints_a_digest_and_writes_the_history(capsys, tmp_path):
    file = tmp_path / "history.jsonl"

    code = main(["--requests", "300", "--seeds", "0:2", "--history", str(file)])

    printed = capsys.readouterr().out.splitlines()
    assert code == 0
    assert len(printed) == 3
    assert '"violations": 0' in printed[-1]
    assert file.read_text(encoding="utf-8").startswith('["world", {"seed": 0')


def test_the_command_prints_the_broken_rule_and_how_to_repeat_it(capsys, monkeypatch):
    monkeypatch.setattr(Driver, "_expire", lambda self: None)

    code = main(["--requests", "600", "--seeds", "0:3"])

    printed = capsys.readouterr().out
    assert code == 1
    assert "a deadline ends a request: request" in printed
    assert "again: python -m simulator --requests 200 --seeds" in printed
