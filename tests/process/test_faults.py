# SPDX-License-Identifier: Apache-2.0

"""Deaths, hangs and lies of the other process, and the death of this one."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from gone import is_gone, living, wait_until
from hypothesis import given
from hypothesis import strategies as st

from unillm import Generator, SamplingParams
from unillm.errors import (
    BackendUnavailableError,
    EngineDeadError,
    EngineOutOfMemoryError,
    RequestError,
    UnillmError,
)
from unillm.process import channel, host, peer
from unillm.process import engine as engines
from unillm.process.channel import Channel, ProtocolError
from unillm.process.messages import PROTOCOL
from unillm.runtime import driver

HERE = Path(__file__).parent
LONG = SamplingParams(temperature=0, max_tokens=400, ignore_eos=True)


def pid_of(generator) -> int:
    return generator._driver.engine.pid


@pytest.fixture
def hostile(interpreter):
    """Return a function that makes an interpreter whose process misbehaves."""

    def make(kind, **variables):
        path = os.environ["PYTHONPATH"]
        given = " ".join(f"{name}={value}" for name, value in variables.items())
        script = HERE / "hostile.py"
        return interpreter(
            f'export PYTHONPATH="{path}" {given}',
            f'exec "{sys.executable}" "{script}" {kind} "$@"',
        )

    return make


# ------------------------------------------------------------------------------ loading


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("exit_1", r"ended with exit status 1\. Its last lines:\n  the last words"),
        ("kill", "was ended by SIGKILL, as the kernel does when memory runs out"),
        ("crash", "was ended by SIGSEGV"),
    ],
)
def test_a_death_while_loading_has_its_reason(open_pipe, fault, words):
    with pytest.raises(EngineDeadError, match=words):
        open_pipe(at="load", fault=fault)


def test_a_process_that_is_stopped_while_loading_is_reported_and_killed(
    open_pipe, monkeypatch
):
    monkeypatch.setattr(engines, "LOAD_SILENCE_S", 0.0)
    with pytest.raises(EngineDeadError, match="no sign of life for 3 s") as caught:
        open_pipe(at="load", fault="stop", step_timeout_s=3.0)

    assert is_gone(int(re.search(r"id (\d+)", str(caught.value))[1]))


def test_loading_that_takes_longer_than_a_step_may_goes_on(open_pipe):
    generator = open_pipe(at="load", fault="slow_load", step_timeout_s=2.0)

    assert generator.generate([[1]], LONG)[0].finish_reason == "length"


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["echo not a Python >&2; exit 3"], r"exit status 3\. .*\n  not a Python"),
        ([f'exec "{sys.executable}" -S "$@"'], r"-m pip install (-e )?\S+"),
        (["kill -9 $$"], "was ended by SIGKILL"),
    ],
    ids=["no Python", "no unillm", "killed"],
)
def test_an_interpreter_that_cannot_serve_is_an_error_with_its_words(
    interpreter, lines, words
):
    with pytest.raises(BackendUnavailableError, match=words) as caught:
        Generator("unillm/tiny", backend="pipe", python=interpreter(*lines))

    assert caught.value.name == "pipe"


@pytest.mark.parametrize("path", ["/nowhere/python", "/etc/passwd", "/proc", "/a\0b"])
def test_a_path_that_is_not_an_interpreter_is_refused(path):
    with pytest.raises(UnillmError, match=r"cannot be run|is not the path"):
        Generator("unillm/tiny", backend="pipe", python=path)


# -------------------------------------------------------------------------------- steps


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("exit_1", r"exit status 1\. Its last lines:\n  the last words"),
        ("kill", "SIGKILL, as the kernel does when memory runs out"),
        ("crash", "SIGSEGV"),
        ("fail", "RuntimeError: CUDA error: an illegal memory access"),
        ("refuse", "ConnectionRefusedError: a worker of the engine does not answer"),
        ("close_sockets", "ended with exit status 1|was ended by SIGKILL"),
    ],
)
def test_a_death_in_a_step_ends_every_request(open_pipe, fault, words):
    generator = open_pipe(at=3, fault=fault)
    handles = [generator.submit([number], LONG) for number in (1, 2, 3)]
    begun = time.monotonic()

    for handle in handles:
        with pytest.raises(EngineDeadError, match=words):
            handle.result(timeout=30)

    assert time.monotonic() - begun < 20
    assert wait_until(lambda: is_gone(pid_of(generator)))
    with pytest.raises(EngineDeadError):
        generator.generate([[1]], LONG)


def test_memory_that_runs_out_in_a_step_keeps_its_class(open_pipe):
    generator = open_pipe(at=2, fault="memory")

    with pytest.raises(EngineOutOfMemoryError, match=r"5 GiB of 4 GiB"):
        generator.generate([[1]], LONG)


@pytest.mark.parametrize("fault", ["hang", "stop"])
def test_a_hang_in_a_step_ends_every_request_and_the_process(open_pipe, fault):
    generator = open_pipe(at=3, fault=fault, grandchild=True, step_timeout_s=2.0)

    with pytest.raises(EngineDeadError, match="has not answered for 2 s"):
        generator.generate([[1]], LONG)

    assert wait_until(lambda: is_gone(pid_of(generator)))


@pytest.mark.parametrize("fault", ["hang", "stop", "exit_1", "fail"])
def test_a_fault_in_closing_does_not_hold_up_the_program(open_pipe, fault, monkeypatch):
    monkeypatch.setattr(driver, "CLOSE_TIMEOUT_S", 1.0)
    generator = open_pipe(at="close", fault=fault)
    pid = pid_of(generator)

    generator.close()

    assert wait_until(lambda: is_gone(pid))


# ---------------------------------------------------------------------------- orphans


def test_grandchildren_end_with_a_killed_process(open_pipe, capfd):
    printed = []

    def grandchild():
        printed.append(capfd.readouterr().err)
        return re.search(r"grandchild (\d+)\n", "".join(printed))

    generator = open_pipe(grandchild=True)
    assert wait_until(grandchild)

    os.kill(pid_of(generator), signal.SIGKILL)

    assert wait_until(lambda: is_gone(int(grandchild()[1])))


PROGRAM = """
import os, sys, time
from unillm import Generator, SamplingParams
generator = Generator("unillm/tiny", backend="pipe", python=sys.executable,
    backend_options={"grandchild": True, "at": "every step", "fault": "slow"})
handle = generator.submit([1], SamplingParams(max_tokens=400, ignore_eos=True))
next(iter(handle))
if sys.argv[1:] == ["fork"] and os.fork() == 0:
    time.sleep(600)
print(generator._driver.engine.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        ("SIGKILL", "alone"),
        ("SIGTERM", "alone"),
        ("SIGINT", "alone"),
        ("SIGKILL", "stopped"),
        ("SIGKILL", "fork"),
    ],
)
def test_no_process_outlives_the_program(number, kind):
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, kind],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        pid = int(program.stdout.readline())
        if kind == "stopped":
            os.kill(pid, signal.SIGSTOP)
        program.send_signal(getattr(signal, number))
        program.wait(30)
        assert wait_until(lambda: is_gone(pid))
        if kind != "fork":  # which holds standard error
            [grandchild] = re.findall(r"grandchild (\d+)", program.stderr.read())
            assert wait_until(lambda: is_gone(int(grandchild)))
    finally:
        os.killpg(program.pid, signal.SIGKILL) if kind == "fork" else program.kill()
        program.stdout.close()
        program.stderr.close()
        program.wait()


# ------------------------------------------------------------------------ random moments


def signal_at_a_random_moment(open_pipe, rng, number):
    """Send a signal to an engine's process; every request ends with tokens or a word."""
    generator = open_pipe(at="every step", fault="slow", step_timeout_s=2.0)
    params = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True)
    handles = [generator.submit([each], params) for each in range(1, 9)]
    pid = pid_of(generator)
    time.sleep(rng.uniform(0, 1.2))

    os.kill(pid, number)

    ended = 0
    for handle in handles:
        try:
            ended += len(handle.result(timeout=30).token_ids) == 20
        except EngineDeadError:
            ended += 1
    generator.close()
    assert ended == len(handles)
    assert wait_until(lambda: is_gone(pid))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
def test_a_signal_at_a_random_moment_loses_nothing_in_silence(open_pipe, seed, number):
    signal_at_a_random_moment(open_pipe, random.Random(seed), number)


@pytest.mark.large
@pytest.mark.parametrize("seed", range(6, 206))
def test_signals_at_many_random_moments(open_pipe, seed):
    rng = random.Random(seed)
    number = rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
    signal_at_a_random_moment(open_pipe, rng, number)


@pytest.mark.large
@pytest.mark.parametrize("seed", range(200))
def test_the_program_ends_at_many_random_moments(seed):
    rng = random.Random(seed)
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    time.sleep(rng.uniform(0, 4))
    children = set(_children(program.pid))
    program.send_signal(rng.choice([signal.SIGKILL, signal.SIGTERM]))
    program.wait(30)
    program.stdout.close()

    # One that is still importing sees the end of the program when it has done so.
    wait_until(lambda: not living(children), seconds=60)
    assert living(children) == {}


def _children(pid):
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            yield int(path.parent.name)


# --------------------------------------------------------------------------- lying peers


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("garbage", "does not speak unillm's protocol: it announced"),
        ("old", rf"has unillm 9\.9 \(protocol {PROTOCOL + 1}\), and this program has"),
        ("silent", "does not speak unillm's protocol: no message within 2 s"),
        ("other", "began with Bye instead of Hello"),
    ],
)
def test_a_peer_that_greets_wrongly_is_unavailable(hostile, monkeypatch, kind, words):
    monkeypatch.setattr(peer, "HELLO_TIMEOUT_S", 2.0)

    with pytest.raises(BackendUnavailableError, match=words):
        peer.Peer(hostile(kind), "pipe")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("ten_gigabytes", "broke the protocol: it announced a message of"),
        ("half", "ended with exit status 0"),
        ("bytes_after_ready", "broke the protocol: it sent .* not a message"),
        ("wrong_message", "broke the protocol: it sent Hello in place of News"),
        ("wrong_types", "broke the protocol: it sent .* Expected `array`"),
        ("closes", "was ended by SIGKILL"),
        ("noise_on_control", "was ended by SIGKILL"),
    ],
)
def test_a_peer_that_lies_later_is_dead(hostile, kind, words):
    engine = engine_of(hostile(kind))
    engine.add_request(a_request())

    with pytest.raises(EngineDeadError, match=words):
        for _ in range(100):
            engine.step()
            time.sleep(0.01)

    engine.close()
    assert is_gone(engine.pid)


def test_outputs_of_unknown_requests_are_dropped(hostile):
    engine = engine_of(hostile("strangers"))
    engine.add_request(a_request())

    outputs = [
        output for _ in range(2) if engine.has_unfinished() for output in engine.step()
    ]

    assert [(each.request_id, each.token_ids) for each in outputs] == [("0-0", [65])]
    engine.kill()
    engine.close()


def engine_of(python):
    from unillm.process.engine import ProcessEngine
    from unillm.resolve import configure

    return ProcessEngine(
        peer.Peer(python, "pipe"), "pipe", configure("unillm/tiny", "pipe")
    )


def a_request():
    from unillm.engines.base import EngineRequest

    return EngineRequest(
        request_id="0-0",
        prompt_token_ids=(1,),
        params=LONG,
        stop_token_ids=frozenset(),
        max_new_tokens=8,
        seed=0,
    )


@pytest.mark.large
@pytest.mark.parametrize("seed", range(200))
def test_a_fuzzed_peer_is_a_named_error(hostile, monkeypatch, seed):
    monkeypatch.setattr(peer, "HELLO_TIMEOUT_S", 1.0)
    monkeypatch.setattr(engines, "LOAD_SILENCE_S", 0.0)
    try:
        engine = engine_of_within(hostile("fuzz", SEED=seed))
    except UnillmError:
        return
    # The driver's watchdog kills an engine that does not return from a step.
    watchdog = threading.Timer(1.0, engine.kill)
    watchdog.start()
    engine.add_request(a_request())
    with pytest.raises(UnillmError):
        while engine.has_unfinished():
            engine.step()
        raise EngineDeadError("all requests ended")  # by true messages
    watchdog.join()
    engine.close()
    assert is_gone(engine.pid)


def engine_of_within(python):
    from unillm.process.engine import ProcessEngine
    from unillm.resolve import configure

    config = configure("unillm/tiny", "pipe", step_timeout_s=1.0)
    return ProcessEngine(peer.Peer(python, "pipe"), "pipe", config)


@pytest.mark.property
@given(st.lists(st.binary(max_size=60), max_size=6))
def test_any_bytes_are_messages_or_a_named_error(chunks):
    here, there = channel.pair()
    ours = Channel.to_host(here)
    try:
        for chunk in chunks:
            there.sendall(chunk)
        there.close()
        with pytest.raises((EOFError, ProtocolError)):
            while True:
                ours.receive()
    finally:
        ours.close()


@pytest.mark.property
@given(st.binary(max_size=200), st.integers(1, 50))
def test_a_message_in_pieces_is_the_same_message(text, size):
    from unillm.process.messages import Log

    here, there = channel.pair()
    ours = Channel.to_host(here)
    sent = Log("unillm", 20, text.decode("latin-1"))
    body = channel.ENCODER.encode(sent)
    data = len(body).to_bytes(4, "big") + body
    try:
        for start in range(0, len(data), size):
            assert not ours.poll()
            there.sendall(data[start : start + size])
        assert ours.receive(5) == sent
    finally:
        ours.close()
        there.close()


def test_the_end_of_the_program_is_seen_behind_its_last_messages():
    from unillm.process.messages import Close

    here, there = channel.pair()
    program = Channel.to_program(there)
    assert not host._is_gone(program)
    ours = Channel.to_host(here)
    ours.send(Close())
    ours.send(Close())

    ours.close()

    assert host._is_gone(program)
    program.close()


def test_an_end_that_another_thread_closes_is_readable():
    ours, there = channel.pair()
    there.close()
    numbers = iter([ours.fileno(), -1])  # it is closed between the two

    class Closing:
        def fileno(self):
            return next(numbers)

    end = Closing()
    assert channel.readable([end], 5) == [end]
    ours.close()


def test_an_error_is_not_lost_when_the_request_is_refused_late(open_pipe):
    generator = open_pipe()

    found = generator.generate([[1] * 13, [1]], LONG, on_error="return")

    assert isinstance(found[0], RequestError)
    assert found[1].finish_reason == "length"
