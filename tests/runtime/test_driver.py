# SPDX-License-Identifier: Apache-2.0

"""The driver and the handle over a scripted engine: endings, faults and bounds."""

from __future__ import annotations

import threading
import time

import pytest

from unillm import SamplingParams
from unillm.engines.base import EngineRequest
from unillm.engines.slots import SlotToken
from unillm.errors import (
    EngineDeadError,
    GeneratorClosedError,
    QueueFullError,
    RequestCancelledError,
    RequestFailedError,
    RequestTimeoutError,
)
from unillm.runtime.completion import Completion
from unillm.runtime.driver import Driver
from unillm.runtime.handle import RequestHandle
from unillm.scheduling.slots import SlotScheduler
from unillm.testing.scripted import ScriptedEngine, ScriptedSlotEngine
from unillm.text.detokenizer import Detokenizer
from unillm.text.loading import load_tokenizer

END = 0
PATIENCE_S = 10


class Letters:
    """A tokenizer of single letters, as a caller might bring one."""

    eos_token_id = END

    def encode(self, text):
        return [ord(letter) for letter in text]

    def decode(self, ids):
        return "".join(chr(i) for i in ids if i != END)


@pytest.fixture
def tokenizer():
    return load_tokenizer(Letters())


class Gate(ScriptedSlotEngine):
    """Says "a", "b", "c", …; each decode waits until the test lets it."""

    def __init__(self, length=5, **kwargs):
        super().__init__(
            lambda _, n: END if n == length - 1 else ord("a") + n % 26, **kwargs
        )
        self.entered = threading.Event()
        self._permits = threading.Semaphore(0)

    def let(self, decodes=100_000):
        """Let this many decodes happen."""
        self._permits.release(decodes)

    def decode(self, slots):
        self.entered.set()
        assert self._permits.acquire(timeout=PATIENCE_S)
        return super().decode(slots)


@pytest.fixture
def drive(tokenizer):
    """Make drivers that are closed after the test."""
    drivers = []

    def drive(engine, create=SlotScheduler, **options):
        driver = Driver(
            lambda: create(engine),
            **{
                "tokenizer": tokenizer,
                "primary_eos": END,
                "max_queued_requests": 100,
                "max_queued_tokens": 10_000,
                **options,
            },
        )
        drivers.append((driver, engine))
        return driver

    yield drive
    for driver, engine in drivers:
        if isinstance(engine, Gate):
            engine.let()
        driver.close()


@pytest.fixture
def handle_for(tokenizer):
    counter = iter(range(1000))

    def handle_for(driver, *, prompt=(65, 66), deadline=None, **params):
        number = next(counter)
        sampling = SamplingParams(**{"max_tokens": 50, **params})
        completions = [
            Completion(
                request=EngineRequest(
                    request_id=f"{number}-{index}",
                    prompt_token_ids=tuple(prompt),
                    params=sampling,
                    stop_token_ids=frozenset({END}),
                    max_new_tokens=sampling.max_tokens,
                    seed=index,
                    arrival=number,
                ),
                detokenizer=Detokenizer(
                    tokenizer, prompt_token_ids=tuple(prompt), params=sampling
                ),
                index=index,
            )
            for index in range(sampling.n)
        ]
        return RequestHandle(
            request_id=str(number),
            prompt=None,
            completions=completions,
            num_truncated_tokens=0,
            fitted_max_tokens=None,
            deadline=deadline,
            on_cancel=driver.cancel,
        )

    return handle_for


def start(driver, engine, handle):
    """Submit a request and wait until it has its first tokens."""
    driver.submit(handle, block=False)
    engine.let(1)
    assert next(iter(handle)).token_ids


def settle(driver):
    """Wait until the driver's thread has taken in everything."""
    until = time.monotonic() + PATIENCE_S
    while driver._inbox or driver._cancelled or driver._live:
        assert time.monotonic() < until, "requests are left in the driver"
        time.sleep(0.001)


def test_a_request_ends_with_text_and_reason(drive, handle_for):
    driver = drive(ScriptedSlotEngine(lambda _, n: [104, 105, END][n]))
    handle = handle_for(driver)

    driver.submit(handle, block=False)
    output = handle.result(PATIENCE_S)

    assert ("hi", [104, 105, END], "stop") == (
        output.text,
        output.token_ids,
        output.finish_reason,
    )
    assert output.outputs[0].stop_reason is None
    assert output.metrics.slots.decode_steps == 2
    assert 3 == output.metrics.num_generation_tokens


def test_a_stop_string_frees_the_slot_at_once(drive, handle_for):
    engine = Gate(length=100)
    engine.let()
    driver = drive(engine)
    handle = handle_for(driver, stop="de")

    driver.submit(handle, block=False)
    output = handle.result(PATIENCE_S)
    settle(driver)

    assert ("abc", "stop", "de") == (
        output.text,
        output.finish_reason,
        output.outputs[0].stop_reason,
    )
    assert [97, 98, 99, 100, 101] == output.token_ids
    assert 0 == driver.stats()["engine"]["running"]


def test_deltas_of_a_slow_reader_add_up(drive, handle_for):
    engine = Gate(length=20)
    engine.let()
    driver = drive(engine)
    handle = handle_for(driver)
    driver.submit(handle, block=False)
    handle.result(PATIENCE_S)

    deltas = list(handle)

    assert 1 == len(deltas)
    assert handle.result().text == deltas[0].text
    assert handle.result().token_ids == deltas[0].token_ids


def test_who_waits_for_the_end_is_not_woken_up_by_tokens(
    drive, handle_for, monkeypatch
):
    """Each time would take a core away from the engine."""
    engine = Gate(length=20)
    driver = drive(engine)
    handle = handle_for(driver)
    woken = []
    notify_all = handle._changed.notify_all

    def noted():
        woken.append(handle.done())
        notify_all()

    monkeypatch.setattr(handle._changed, "notify_all", noted)
    driver.submit(handle, block=False)
    assert engine.entered.wait(PATIENCE_S)
    threading.Timer(0.1, engine.let).start()

    assert 20 == len(handle.result(PATIENCE_S).token_ids)

    assert [True] == woken


def test_cancelling_ends_the_request_and_frees_its_slot(drive, handle_for):
    engine = Gate()
    driver = drive(engine)
    handle, other = handle_for(driver), handle_for(driver)
    driver.submit(handle, block=False)
    driver.submit(other, block=False)
    engine.let(1)
    assert "ab" == next(iter(handle)).text

    handle.cancel()
    engine.let()

    with pytest.raises(RequestCancelledError) as caught:
        handle.result(PATIENCE_S)
    assert "ab" == caught.value.output.text
    assert "abort" == caught.value.output.finish_reason
    assert "abcd" == other.result(PATIENCE_S).text
    settle(driver)
    assert {"accepted": 2, "finished": 1, "cancelled": 1, "failed": 0} == {
        key: driver.stats()[key]
        for key in ("accepted", "finished", "cancelled", "failed")
    }


def test_cancelling_twice_or_after_the_end_does_nothing(drive, handle_for):
    driver = drive(ScriptedSlotEngine(lambda *_: END))
    handle = handle_for(driver)
    driver.submit(handle, block=False)
    output = handle.result(PATIENCE_S)

    handle.cancel()
    handle.cancel()

    assert output == handle.result()
    settle(driver)
    assert 0 == driver.stats()["cancelled"]


def test_waiting_times_out_and_the_request_goes_on(drive, handle_for):
    engine = Gate()
    driver = drive(engine)
    handle = handle_for(driver)
    driver.submit(handle, block=False)

    with pytest.raises(RequestTimeoutError, match="goes on"):
        handle.result(timeout=0.01)

    engine.let()
    assert "abcd" == handle.result(PATIENCE_S).text


def test_a_deadline_ends_the_request_with_what_it_has(drive, handle_for):
    engine = Gate(length=100)
    driver = drive(engine)
    handle = handle_for(driver, deadline=time.monotonic() + 0.05)
    driver.submit(handle, block=False)
    assert engine.entered.wait(PATIENCE_S)
    time.sleep(0.06)
    engine.let()

    with pytest.raises(RequestTimeoutError, match="timeout_s") as caught:
        handle.result(PATIENCE_S)

    assert caught.value.output.text.startswith("a")
    settle(driver)


def test_a_full_queue_refuses_and_says_its_numbers(drive, handle_for):
    engine = Gate(num_slots=1)
    driver = drive(engine, max_queued_requests=2)
    running = handle_for(driver)
    start(driver, engine, running)
    for _ in range(2):
        driver.submit(handle_for(driver), block=False)

    with pytest.raises(QueueFullError, match="limits are 2 requests"):
        driver.submit(handle_for(driver), block=False)

    engine.let()
    assert "abcd" == running.result(PATIENCE_S).text


def test_a_blocking_submit_waits_for_room(drive, handle_for):
    engine = Gate(num_slots=1)
    engine.let()
    driver = drive(engine, max_queued_requests=1)
    handles = [handle_for(driver) for _ in range(10)]

    for handle in handles:
        driver.submit(handle, block=True)

    assert ["abcd"] * 10 == [handle.result(PATIENCE_S).text for handle in handles]


def test_the_queue_is_bounded_in_tokens_too(drive, handle_for):
    engine = Gate(num_slots=1)
    driver = drive(engine, max_queued_tokens=100)
    start(driver, engine, handle_for(driver))
    driver.submit(handle_for(driver, prompt=[65] * 60), block=False)

    with pytest.raises(QueueFullError, match="this one has 60"):
        driver.submit(handle_for(driver, prompt=[65] * 60), block=False)


def test_a_dying_engine_is_told_to_every_waiter(drive, handle_for):
    class Dying(Gate):
        def decode(self, slots):
            super().decode(slots)
            raise ZeroDivisionError("the device is gone")

    engine = Dying(num_slots=1)
    driver = drive(engine)
    handles = [handle_for(driver) for _ in range(4)]
    for handle in handles:
        driver.submit(handle, block=False)
    engine.let()

    for handle in handles:
        with pytest.raises(EngineDeadError, match="the device is gone"):
            handle.result(PATIENCE_S)
    with pytest.raises(EngineDeadError):
        driver.submit(handle_for(driver), block=False)
    assert ("close",) == engine.calls[-1]


def test_a_hanging_engine_is_told_to_every_waiter(drive, handle_for):
    engine = Gate()
    driver = drive(engine, step_timeout_s=0.1)
    running, waiting = handle_for(driver), handle_for(driver)

    driver.submit(running, block=False)
    assert engine.entered.wait(PATIENCE_S)
    driver.submit(waiting, block=False)

    for handle in (running, waiting):
        with pytest.raises(
            EngineDeadError, match=r"not answered for 0\.1 s.*step_time"
        ):
            handle.result(PATIENCE_S)
    with pytest.raises(EngineDeadError, match="not answered"):
        driver.submit(handle_for(driver), block=False)


def test_what_a_hanging_engine_says_later_is_dropped(drive, handle_for):
    engine = Gate()
    driver = drive(engine, step_timeout_s=0.1)
    handle = handle_for(driver)
    driver.submit(handle, block=False)
    with pytest.raises(EngineDeadError):
        handle.result(PATIENCE_S)
    said = len(handle.completions[0].token_ids)

    engine.let()
    driver._thread.join(PATIENCE_S)

    assert ("close",) == engine.calls[-1]
    assert said == len(handle.completions[0].token_ids)
    assert 1 == driver.stats()["failed"]


class Hanging(ScriptedEngine):
    """Has a process that never answers; a step waits until that is killed."""

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


@pytest.mark.parametrize("how", ["hangs", "closed"])
def test_an_engine_that_does_not_come_back_is_killed(
    drive, handle_for, monkeypatch, how
):
    monkeypatch.setattr("unillm.runtime.driver.CLOSE_TIMEOUT_S", 0.1)
    engine = Hanging()
    step_timeout_s = 0.1 if how == "hangs" else 600
    driver = drive(engine, create=lambda same: same, step_timeout_s=step_timeout_s)
    handle = handle_for(driver)
    driver.submit(handle, block=False)
    assert engine.entered.wait(PATIENCE_S)

    if how == "closed":
        driver.close()

    told = EngineDeadError if how == "hangs" else GeneratorClosedError
    with pytest.raises(told):
        handle.result(PATIENCE_S)
    driver._thread.join(PATIENCE_S)
    assert [("kill",), ("close",)] == engine.calls[-2:]


def test_an_idle_engine_does_not_hang(drive, handle_for):
    now = [0.0]
    engine = ScriptedSlotEngine(lambda _, n: [104, END][n])
    driver = drive(engine, threaded=False, step_timeout_s=5, clock=lambda: now[0])
    driver.turn(block=False)

    now[0] = 100.0
    driver.check_hang()
    handle = handle_for(driver)
    driver.submit(handle, block=False)
    while not handle.done():
        driver.turn(block=False)

    assert "h" == handle.result().text


def test_a_row_that_fails_is_told_to_its_owner_alone(drive, handle_for):
    class OneBadRow(ScriptedSlotEngine):
        def decode(self, slots):
            tokens = super().decode(slots)
            return [
                SlotToken(0, error="NaN") if s == 0 else t
                for s, t in zip(slots, tokens, strict=True)
            ]

    driver = drive(OneBadRow(lambda _, n: [104, 105, END][n]))
    bad, good = handle_for(driver), handle_for(driver)
    driver.submit(bad, block=False)
    driver.submit(good, block=False)

    with pytest.raises(RequestFailedError, match="NaN"):
        bad.result(PATIENCE_S)
    assert "hi" == good.result(PATIENCE_S).text


def test_a_tokenizer_that_raises_fails_its_request_alone(drive, handle_for):
    driver = drive(ScriptedSlotEngine(lambda r, n: 0x110000 if r.arrival == 0 else END))
    bad, good = handle_for(driver), handle_for(driver)
    driver.submit(bad, block=False)
    driver.submit(good, block=False)

    with pytest.raises(RequestFailedError, match="could not be turned into text"):
        bad.result(PATIENCE_S)
    assert "" == good.result(PATIENCE_S).text
    settle(driver)


def test_closing_ends_every_request(drive, handle_for):
    engine = Gate(num_slots=1)
    driver = drive(engine)
    handles = [handle_for(driver) for _ in range(3)]
    for handle in handles:
        driver.submit(handle, block=False)
    assert engine.entered.wait(PATIENCE_S)
    closing = threading.Thread(target=driver.close)
    closing.start()
    engine.let()
    closing.join(PATIENCE_S)

    for handle in handles:
        with pytest.raises(GeneratorClosedError):
            handle.result(PATIENCE_S)
    with pytest.raises(GeneratorClosedError):
        driver.submit(handle_for(driver), block=False)
    assert ("close",) == engine.calls[-1]
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
    handle = handle_for(driver)
    driver.submit(handle, block=True)
    handle.result()
    driver.close()

    assert {"made", "stepped", "closed"} == {what for what, _ in threads}
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


def test_several_completions_end_when_the_last_one_does(drive, handle_for):
    driver = drive(ScriptedSlotEngine(lambda r, n: END if n == r.seed else 97 + r.seed))
    handle = handle_for(driver, n=3)
    driver.submit(handle, block=False)

    output = handle.result(PATIENCE_S)

    assert ["", "b", "cc"] == [completion.text for completion in output.outputs]
    assert [0, 1, 2] == [completion.index for completion in output.outputs]
    assert {0, 1, 2} == {delta.index for delta in handle}


def test_many_threads_submit_read_and_cancel(drive, handle_for):
    engine = Gate(length=8, num_slots=3)
    engine.let()
    driver = drive(engine)
    texts, errors = [], []

    def use(number):
        for turn in range(10):
            handle = handle_for(driver)
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
    assert {"abcdefg"} == set(texts)
    assert 80 == len(texts) + len(errors)
    assert 80 == stats["accepted"] == stats["finished"] + stats["cancelled"]
    assert (0, 0) == (stats["queued"], stats["queued_tokens"])


def test_a_driver_can_be_closed_from_its_own_thread(drive, handle_for):
    """As when the collector, which runs in any thread, finds its last owner."""
    engine = Gate(num_slots=1)
    driver = drive(engine)
    decode = engine.decode

    def decode_and_close(slots):
        driver.close()
        return decode(slots)

    engine.decode = decode_and_close
    engine.let()
    handle = handle_for(driver)
    driver.submit(handle, block=False)

    with pytest.raises(GeneratorClosedError):
        handle.result(PATIENCE_S)
