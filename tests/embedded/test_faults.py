# SPDX-License-Identifier: Apache-2.0

"""A real engine that fails: errors of the waiting calls, and rows that are unharmed."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from unillm import Generator, SamplingParams
from unillm.errors import EngineDeadError, RequestFailedError

SOON_S = 5.0
LONG = SamplingParams(temperature=0, max_tokens=400, ignore_eos=True)
FATAL = "CUDA error: device-side assert triggered"
PROMPTS = {
    "Count from 3 to 9:": "3 4 5 6 7 8 9",
    "Add 17 and 25:": "42",
    "Spell the word apple:": "a p p l e",
}


@pytest.fixture
def generator():
    with Generator(
        "unillm/tiny", backend="transformers", enforce_eager=True, step_timeout_s=1.0
    ) as generator:
        yield generator


@pytest.fixture
def engine(generator):
    """The slot engine below scheduler and driver."""
    return generator._driver.engine._engine


def start(generator, count=4):
    """Start requests, and wait for their first tokens."""
    handles = [generator.submit([5, 6, 7 + n], LONG) for n in range(count)]
    for handle in handles:
        next(iter(handle))
    return handles


def assert_all_raise(handles, match):
    began = time.monotonic()
    for handle in handles:
        with pytest.raises(EngineDeadError, match=match):
            handle.result(SOON_S)
    assert time.monotonic() - began < SOON_S


@pytest.mark.parametrize("during", ["prefill", "decode"])
def test_every_waiting_call_raises_a_fatal_error(
    generator, engine, monkeypatch, during
):
    handles = start(generator)

    def fails(*_):
        raise RuntimeError(FATAL)

    monkeypatch.setattr(engine, during, fails)
    if during == "prefill":
        handles.append(generator.submit("Add 1 and 2:"))

    assert_all_raise(handles, FATAL)
    with pytest.raises(EngineDeadError, match=FATAL):
        generator.generate("Add 1 and 2:")


def test_every_waiting_call_raises_when_a_step_hangs(generator, engine, monkeypatch):
    goes_on = threading.Event()
    handles = start(generator)
    decode = engine.decode

    def hangs(slots):
        goes_on.wait(30)
        return decode(slots)

    monkeypatch.setattr(engine, "decode", hangs)
    try:
        assert_all_raise(handles, r"not answered for 1 s")
    finally:
        goes_on.set()


def test_a_generator_closes_soon_after_its_engine_died(generator, engine, monkeypatch):
    def fails(*_):
        raise RuntimeError(FATAL)

    handles = start(generator)
    monkeypatch.setattr(engine, "decode", fails)
    assert_all_raise(handles, FATAL)

    began = time.monotonic()
    generator.close()

    assert time.monotonic() - began < 10.0


def live_slots(engine):
    return [row.slot for row in engine._rows.all if row.is_live]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")], ids=["nan", "inf"])
def test_a_row_without_valid_logits_fails_alone(generator, engine, monkeypatch, bad):
    choose = engine._sampler.choose
    victim = generator.submit([5, 6, 7], LONG)
    next(iter(victim))
    [slot] = live_slots(engine)

    def poisoned(logits, slots, *, best=None):
        logits = logits.clone()
        if slot in slots and slot in live_slots(engine):
            logits[list(slots).index(slot), 3] = bad
        return choose(logits, slots)

    monkeypatch.setattr(engine._sampler, "choose", poisoned)
    with pytest.raises(RequestFailedError):
        victim.result(SOON_S)
    monkeypatch.setattr(engine._sampler, "choose", choose)

    outputs = generator.generate(
        list(PROMPTS), SamplingParams(temperature=0, max_tokens=40)
    )

    assert [output.text for output in outputs] == list(PROMPTS.values())


def test_neighbours_of_a_failing_row_get_their_own_tokens(
    generator, engine, monkeypatch
):
    choose = engine._sampler.choose
    failed = set()

    def poisoned(logits, slots, *, best=None):
        if len(slots) > 1 and not failed:
            failed.add(slots[0])
            logits = logits.clone()
            logits[0] = torch.nan
        return choose(logits, slots)

    monkeypatch.setattr(engine._sampler, "choose", poisoned)

    outputs = generator.generate(
        list(PROMPTS),
        SamplingParams(temperature=0, max_tokens=40),
        on_error="return",
    )

    assert len([o for o in outputs if isinstance(o, RequestFailedError)]) == 1
    for text, output in zip(PROMPTS.values(), outputs, strict=True):
        assert isinstance(output, RequestFailedError) or output.text == text


def test_a_closed_generator_leaves_no_thread(generator):
    start(generator)
    driver = generator._driver
    mine = driver._thread
    assert mine.is_alive()

    generator.close()

    assert not mine.is_alive()
    assert driver._over.is_set()  # the watchdog ends by it
