# SPDX-License-Identifier: Apache-2.0

"""A handle over a driver with a scripted engine: waiting, reading and cancelling."""

from __future__ import annotations

import threading

import pytest
from runtime.driving import END, PATIENCE_S, Gate, settle

from unillm.errors import RequestCancelledError, RequestTimeoutError
from unillm.runtime.handle import RequestHandle
from unillm.testing.scripted import ScriptedSlotEngine


def test_deltas_of_a_slow_reader_add_up(drive, handle_for):
    engine = Gate(length=20)
    engine.permit()
    driver = drive(engine)
    handle = handle_for()
    driver.submit(handle, block=False)
    handle.result(PATIENCE_S)

    deltas = list(handle)

    assert len(deltas) == 1
    assert deltas[0].text == handle.result().text
    assert deltas[0].token_ids == handle.result().token_ids


def test_tokens_do_not_wake_a_thread_that_waits_for_the_result(
    drive, handle_for, monkeypatch
):
    """Each wake would take a core away from the engine."""
    engine = Gate(length=20)
    driver = drive(engine)
    handle = handle_for()
    woken = []
    handle._changed = threading.Condition(handle._lock)
    notify_all = handle._changed.notify_all

    def noted():
        woken.append(handle.done())
        notify_all()

    monkeypatch.setattr(handle._changed, "notify_all", noted)
    driver.submit(handle, block=False)
    assert engine.entered.wait(PATIENCE_S)
    threading.Timer(0.1, engine.permit).start()

    assert len(handle.result(PATIENCE_S).token_ids) == 20

    assert woken == [True]


def test_cancelling_ends_the_request_and_frees_its_slot(drive, handle_for):
    engine = Gate()
    driver = drive(engine)
    handle, other = handle_for(), handle_for()
    driver.submit(handle, block=False)
    driver.submit(other, block=False)
    engine.permit(1)
    assert next(iter(handle)).text == "ab"

    handle.cancel()
    engine.permit()

    with pytest.raises(RequestCancelledError) as caught:
        handle.result(PATIENCE_S)
    assert caught.value.output.text == "ab"
    assert caught.value.output.finish_reason == "abort"
    assert other.result(PATIENCE_S).text == "abcd"
    settle(driver)
    assert {
        key: driver.stats()[key]
        for key in ("accepted", "finished", "cancelled", "failed")
    } == {"accepted": 2, "finished": 1, "cancelled": 1, "failed": 0}


def test_a_request_cancelled_while_a_token_is_written_has_not_finished(
    drive, handle_for, monkeypatch
):
    update = RequestHandle.update

    def update_and_cancel(handle, *args):
        written = update(handle, *args)
        handle.cancel()
        return written

    monkeypatch.setattr(RequestHandle, "update", update_and_cancel)
    driver = drive(ScriptedSlotEngine(lambda *_: 65))
    driver.submit(handle_for(), block=False)

    settle(driver)
    stats = driver.stats()
    assert (stats["accepted"], stats["finished"], stats["cancelled"]) == (1, 0, 1)


def test_cancelling_twice_or_after_the_end_does_nothing(drive, handle_for):
    driver = drive(ScriptedSlotEngine(lambda *_: END))
    handle = handle_for()
    driver.submit(handle, block=False)
    output = handle.result(PATIENCE_S)

    handle.cancel()
    handle.cancel()

    assert handle.result() == output
    settle(driver)
    assert driver.stats()["cancelled"] == 0


def test_waiting_times_out_and_the_request_goes_on(drive, handle_for):
    engine = Gate()
    driver = drive(engine)
    handle = handle_for()
    driver.submit(handle, block=False)

    with pytest.raises(RequestTimeoutError, match="goes on"):
        handle.result(timeout=0.01)

    engine.permit()
    assert handle.result(PATIENCE_S).text == "abcd"


def test_several_completions_end_when_the_last_one_does(drive, handle_for):
    driver = drive(ScriptedSlotEngine(lambda r, n: END if n == r.seed else 97 + r.seed))
    handle = handle_for(n=3)
    driver.submit(handle, block=False)

    output = handle.result(PATIENCE_S)

    assert [completion.text for completion in output.outputs] == ["", "b", "cc"]
    assert [completion.index for completion in output.outputs] == [0, 1, 2]
    assert {delta.index for delta in handle} == {0, 1, 2}


def test_a_callback_is_called_once_at_the_end_and_at_once_after_it(drive, handle_for):
    engine = Gate()
    driver = drive(engine)
    handle, called = handle_for(), []
    handle.add_done_callback(called.append)
    driver.submit(handle, block=False)
    engine.permit(1)
    before = list(called)
    engine.permit()
    handle.result(PATIENCE_S)
    handle.add_done_callback(called.append)

    assert before == []
    assert called == [handle, handle]
