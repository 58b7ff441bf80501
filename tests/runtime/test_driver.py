# SPDX-License-Identifier: Apache-2.0

"""The driver over a scripted engine: endings, faults, bounds and threads."""

from __future__ import annotations

import threading
import time

import pytest
from runtime.driving import END, PATIENCE_S, Gate, settle, start, wait_until

from unillm.engines.slots import SlotToken
from unillm.errors import (
    EngineDeadError,
    GeneratorClosedError,
    QueueFullError,
    RequestCancelledError,
    RequestFailedError,
    RequestTimeoutError,
)
from unillm.scheduling.slots import SlotScheduler
from unillm.testing.scripted import ScriptedEngine, ScriptedSlotEngine


def test_a_request_ends_with_text_and_reason(drive, handle_for):
    driver = drive(ScriptedSlotEngine(lambda _, n: [104, 105, END][n]))
    handle = handle_for()

    driver.submit(handle, block=False)
    output = handle.result(PATIENCE_S)

    assert (
        output.text,
        output.token_ids,
        output.finish_reason,
    ) == ("hi", [104, 105, END], "stop")
    assert output.outputs[0].stop_reason is None
    assert output.metrics.slots.decode_steps == 2
    assert output.metrics.num_generation_tokens == 3


def test_a_stop_string_frees_the_slot_at_once(drive, handle_for):
    engine = Gate(length=100)
    engine.permit()
    driver = drive(engine)
    handle = handle_for(stop="de")

    driver.submit(handle, block=False)
    output = handle.result(PATIENCE_S)
    settle(driver)

    assert (
        output.text,
        output.finish_reason,
        output.outputs[0].stop_reason,
    ) == ("abc", "stop", "de")
    assert output.token_ids == [97, 98, 99, 100, 101]
    assert driver.stats()["engine"]["running"] == 0


def test_a_deadline_ends_the_request_with_what_it_has(drive, handle_for):
    engine = Gate(length=100)
    driver = drive(engine)
    handle = handle_for(timeout_s=0.05)
    driver.submit(handle, block=False)
    assert engine.entered.wait(PATIENCE_S)
    time.sleep(0.06)
    engine.permit()

    with pytest.raises(RequestTimeoutError, match="timeout_s") as caught:
        handle.result(PATIENCE_S)

    assert caught.value.output.text.startswith("a")
    settle(driver)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_queued_requests": 2}, "limits are 2 requests"),
        ({"max_queued_tokens": 150}, "this one has 60; .* and 150 tokens"),
    ],
    ids=["requests", "tokens"],
)
def test_a_full_queue_refuses_with_its_numbers(drive, handle_for, limits, message):
    engine = Gate(num_slots=1)
    driver = drive(engine, **limits)
    running = handle_for()
    start(driver, engine, running)
    for _ in range(2):
        driver.submit(handle_for(prompt=[65] * 60), block=False)

    with pytest.raises(QueueFullError, match=message):
        driver.submit(handle_for(prompt=[65] * 60), block=False)

    engine.permit()
    assert running.result(PATIENCE_S).text == "abcd"


def test_a_blocking_submit_waits_for_room(drive, handle_for):
    engine = Gate(num_slots=1)
    engine.permit()
    driver = drive(engine, max_queued_requests=1)
    handles = [handle_for() for _ in range(10)]

    for handle in handles:
        driver.submit(handle, block=True)

    assert [handle.result(PATIENCE_S).text for handle in handles] == ["abcd"] * 10


def test_a_request_that_was_cancelled_before_takes_no_room(drive, handle_for):
    driver = drive(Gate())
    handle = handle_for()
    handle.cancel()

    driver.submit(handle, block=False)

    assert driver.stats()["queued"] == 0
    assert driver.stats()["accepted"] == 0


def test_a_request_cancelled_while_it_waits_for_room_is_counted_nowhere(
    drive, handle_for
):
    engine = Gate(num_slots=1)
    driver = drive(engine, max_queued_requests=1)
    running, queued, late = handle_for(), handle_for(), handle_for()
    start(driver, engine, running)
    driver.submit(queued, block=False)
    waiting = threading.Thread(
        target=driver.submit, args=(late,), kwargs={"block": True}
    )
    waiting.start()

    late.cancel()
    engine.permit()
    waiting.join(PATIENCE_S)
    assert queued.result(PATIENCE_S).text == "abcd"

    stats = driver.stats()
    assert (stats["accepted"], stats["finished"], stats["cancelled"]) == (2, 2, 0)
    assert stats["queued"] == 0


def test_a_dying_engine_ends_every_request(drive, handle_for):
    class Dying(Gate):
        def decode(self, slots):
            super().decode(slots)
            raise ZeroDivisionError("the device is gone")

    engine = Dying(num_slots=1)
    driver = drive(engine)
    handles = [handle_for() for _ in range(4)]
    for handle in handles:
        driver.submit(handle, block=False)
    engine.permit()

    for handle in handles:
        with pytest.raises(EngineDeadError, match="the device is gone"):
            handle.result(PATIENCE_S)
    with pytest.raises(EngineDeadError):
        driver.submit(handle_for(), block=False)
    assert engine.calls[-1] == ("close",)


def test_a_hanging_engine_ends_every_request(drive, handle_for):
    engine = Gate()
    driver = drive(engine, step_timeout_s=0.1)
    running, waiting = handle_for(), handle_for()

    driver.submit(running, block=False)
    assert engine.entered.wait(PATIENCE_S)
    driver.submit(waiting, block=False)

    for handle in (running, waiting):
        with pytest.raises(
            EngineDeadError, match=r"not answered for 0\.1 s.*step_time"
        ):
            handle.result(PATIENCE_S)
    with pytest.raises(EngineDeadError, match="not answered"):
        driver.submit(handle_for(), block=False)


def test_later_outputs_of_a_hanging_engine_are_dropped(drive, handle_for):
    engine = Gate()
    driver = drive(engine, step_timeout_s=0.1)
    handle = handle_for()
    driver.submit(handle, block=False)
    with pytest.raises(EngineDeadError):
        handle.result(PATIENCE_S)
    before = len(handle.completions[0].token_ids)

    engine.permit()
    wait_until(lambda: engine.calls[-1] == ("close",))

    assert len(handle.completions[0].token_ids) == before
    assert driver.stats()["failed"] == 1


class Hanging(ScriptedEngine):
    """Has a process that never answers; a step waits until it is killed."""

    def __init__(self):
        super().__init__(lambda _request, _n: ord("a"))
        self.entered, self._killed = threading.Event(), threading.Event()

    def step(self):
        self.entered.set()
        assert self._killed.wait(PATIENCE_S)
        raise ConnectionError("the process is gone")

    def kill(self):
        self.calls.append(("kill",))
        self._killed.set()


def test_an_engine_that_dies_while_it_is_idle_is_noticed(drive, handle_for):
    class Mortal(ScriptedEngine):
        gone = None

        def death(self):
            return self.gone

    engine = Mortal(lambda _request, _n: END)
    driver = drive(engine, create=lambda same: same)
    driver.submit(first := handle_for(), block=False)
    first.result(PATIENCE_S)
    settle(driver)
    driver.check_health()

    engine.gone = ConnectionError("its process was killed")

    for call in (driver.check_health, lambda: driver.submit(handle_for(), block=False)):
        with pytest.raises(EngineDeadError, match="its process was killed"):
            call()


@pytest.mark.parametrize("how", ["hangs", "closed"])
def test_an_engine_that_does_not_come_back_is_killed(
    drive, handle_for, monkeypatch, how
):
    monkeypatch.setattr("unillm.runtime.driver.CLOSE_TIMEOUT_S", 0.1)
    engine = Hanging()
    step_timeout_s = 0.1 if how == "hangs" else 600
    driver = drive(engine, create=lambda same: same, step_timeout_s=step_timeout_s)
    handle = handle_for()
    driver.submit(handle, block=False)
    assert engine.entered.wait(PATIENCE_S)

    if how == "closed":
        driver.close()

    with pytest.raises(EngineDeadError if how == "hangs" else GeneratorClosedError):
        handle.result(PATIENCE_S)
    wait_until(lambda: engine.calls[-1] == ("close",))
    assert engine.calls[-2] == ("kill",)


def test_an_idle_engine_does_not_hang(drive, handle_for):
    now = [0.0]
    engine = ScriptedSlotEngine(lambda _, n: [104, END][n])
    driver = drive(engine, threaded=False, step_timeout_s=5, clock=lambda: now[0])
    driver.turn(block=False)

    now[0] = 100.0
    driver.check_hang()
    handle = handle_for()
    driver.submit(handle, block=False)
    while not handle.done():
        driver.turn(block=False)

    assert handle.result().text == "h"


def test_a_failing_row_fails_its_request_alone(drive, handle_for):
    class OneBadRow(ScriptedSlotEngine):
        def decode(self, slots):
            tokens = super().decode(slots)
            return [
                SlotToken(0, error="NaN") if s == 0 else t
                for s, t in zip(slots, tokens, strict=True)
            ]

    driver = drive(OneBadRow(lambda _, n: [104, 105, END][n]))
    bad, good = handle_for(), handle_for()
    driver.submit(bad, block=False)
    driver.submit(good, block=False)

    with pytest.raises(RequestFailedError, match="NaN"):
        bad.result(PATIENCE_S)
    assert good.result(PATIENCE_S).text == "hi"


def test_the_tokens_of_a_step_have_one_time(drive, handle_for):
    driver = drive(ScriptedSlotEngine(lambda *_: 65), threaded=False)
    handles = [handle_for() for _ in range(3)]
    for handle in handles:
        driver.submit(handle, block=False)
    driver.turn(block=False)
    first = {handle.output().metrics.first_token_ts for handle in handles}

    driver.turn(block=False)

    last = {handle.output().metrics.last_token_ts for handle in handles}
    assert len(first) == len(last) == 1
    assert first != last


def test_a_tokenizer_that_raises_fails_its_request_alone(drive, handle_for):
    driver = drive(ScriptedSlotEngine(lambda r, n: 0x110000 if r.arrival == 0 else END))
    bad, good = handle_for(), handle_for()
    driver.submit(bad, block=False)
    driver.submit(good, block=False)

    message = r"could not be turned into text: ValueError: chr\(\) arg"
    with pytest.raises(RequestFailedError, match=message):
        bad.result(PATIENCE_S)
    assert good.result(PATIENCE_S).text == ""
    settle(driver)


def test_closing_ends_every_request(drive, handle_for):
    engine = Gate(num_slots=1)
    driver = drive(engine)
    handles = [handle_for() for _ in range(3)]
    for handle in handles:
        driver.submit(handle, block=False)
    assert engine.entered.wait(PATIENCE_S)
    closing = threading.Thread(target=driver.close)
    closing.start()
    engine.permit()
    closing.join(PATIENCE_S)

    for handle in handles:
        with pytest.raises(GeneratorClosedError):
            handle.result(PATIENCE_S)
    with pytest.raises(GeneratorClosedError):
        driver.submit(handle_for(), block=False)
    assert engine.calls[-1] == ("close",)
    driver.close()


def test_an_engine_is_made_stepped_and_closed_on_one_thread(drive, handle_for):
    threads = []

    class Noted(SlotScheduler):
        def __init__(self, engine):
            super().__init__(engine)
            threads.append(("made", threading.get_ident()))

        def step(self):
            threads.append(("stepped", threading.get_ident()))
            return super().step()

        def close(self):
            threads.append(("closed", threading.get_ident()))
            super().close()

    driver = drive(ScriptedSlotEngine(lambda *_: END, num_slots=1), create=Noted)
    handle = handle_for()
    driver.submit(handle, block=True)
    handle.result()
    driver.close()

    assert {what for what, _ in threads} == {"made", "stepped", "closed"}
    [thread] = {thread for _, thread in threads}
    assert threading.get_ident() != thread


def test_an_engine_that_cannot_be_made_raises_what_it_raised(drive):
    def create(_):
        raise OSError("no such weights")

    before = set(threading.enumerate())

    with pytest.raises(OSError, match="no such weights"):
        drive(ScriptedSlotEngine(lambda *_: END), create=create)

    for thread in set(threading.enumerate()) - before:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def test_an_engine_that_is_not_awaited_is_closed_once_it_is_made(drive, monkeypatch):
    loading, closed = threading.Event(), threading.Event()

    class Slow(SlotScheduler):
        def __init__(self, engine):
            assert loading.wait(PATIENCE_S)
            super().__init__(engine)

        def close(self):
            super().close()
            closed.set()

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("unillm.runtime.driver.Future.result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        drive(ScriptedSlotEngine(lambda *_: END), create=Slow)
    assert not closed.is_set()
    loading.set()

    assert closed.wait(PATIENCE_S)


def test_many_threads_submit_read_and_cancel(drive, handle_for):
    engine = Gate(length=8, num_slots=3)
    engine.permit()
    driver = drive(engine)
    texts, errors = [], []

    def use(number):
        for turn in range(10):
            handle = handle_for()
            driver.submit(handle, block=True)
            if (number + turn) % 3 == 0:
                handle.cancel()
            try:
                texts.append("".join(delta.text for delta in handle))
            except RequestCancelledError as error:
                errors.append(error)

    threads = [threading.Thread(target=use, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S * 3)

    settle(driver)
    stats = driver.stats()
    assert set(texts) == {"abcdefg"}
    assert len(texts) + len(errors) == 80
    assert stats["accepted"] == stats["finished"] + stats["cancelled"] == 80
    assert (stats["queued"], stats["queued_tokens"]) == (0, 0)


def test_a_driver_can_be_closed_from_its_own_thread(drive, handle_for):
    """The collector, which runs in any thread, may do that."""
    engine = Gate(num_slots=1)
    driver = drive(engine)
    decode = engine.decode

    def decode_and_close(slots):
        driver.close()
        return decode(slots)

    engine.decode = decode_and_close
    engine.permit()
    handle = handle_for()
    driver.submit(handle, block=False)

    with pytest.raises(GeneratorClosedError):
        handle.result(PATIENCE_S)
