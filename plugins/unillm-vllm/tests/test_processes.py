# SPDX-License-Identifier: Apache-2.0

"""An engine in its own processes: signals, hangs, closing, and the errors."""

from __future__ import annotations

import multiprocessing
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import Future
from pathlib import Path
from queue import Queue
from types import SimpleNamespace
from unittest.mock import Mock

from unillm_vllm import _processes
from unillm_vllm._engine import VllmEngine

from unillm.errors import EngineDeadError

GONE_S = 40
"""Time until no process is left. On a quiet machine it was 5 s."""

OPTIONS = """
    OPTIONS = {
        "backend": "vllm", "dtype": "float32", "max_model_len": 512,
        "enforce_eager": True,
        "backend_options": {"multiprocessing": True, "kv_cache_memory_bytes": 64 << 20},
    }
"""

SERVING = """
    import os, signal, sys, time
    from multiprocessing import active_children
    from unillm import Generator, SamplingParams
    from unillm.errors import EngineDeadError, GeneratorClosedError

    ENDLESS = SamplingParams(temperature=0, max_tokens=None, ignore_eos=True)
    COUNT = "Count from 3 to 9:"

    def children():
        pairs = {}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                stat = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
            except OSError:
                continue
            pairs.setdefault(int(stat[1]), []).append(int(pid))
        found, ask = [], [os.getpid()]
        while ask:
            new = pairs.get(ask.pop(), [])
            found += new
            ask += new
        # Python's own, which ends with the program.
        return [pid for pid in found if "resource_tracker" not in says(pid)]

    def says(pid):
        try:
            return open(f"/proc/{pid}/cmdline").read()
        except OSError:
            return ""
"""


def program(tmp_path, body: str, *, guarded: bool = True) -> list[str]:
    """Write a program whose generator has its own processes."""
    text = textwrap.dedent(SERVING) + textwrap.dedent(OPTIONS)
    body = textwrap.dedent(body)
    if guarded:
        body = 'if __name__ == "__main__":\n' + textwrap.indent(body, "    ")
    path = tmp_path / "program.py"
    path.write_text(text + "\n" + body)
    return [sys.executable, str(path)]


def alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rsplit(")", 1)[1].split()[0] != "Z"


def wait_until_gone(pids: list[int]) -> None:
    until = time.monotonic() + GONE_S
    while left := [pid for pid in pids if alive(pid)]:
        assert time.monotonic() < until, f"still there: {left}"
        time.sleep(0.1)


def test_nothing_is_left_when_the_program_is_killed_at_work(tmp_path):
    body = """
    generator = Generator("unillm/tiny", **OPTIONS)
    handle = generator.submit(COUNT, ENDLESS)
    next(iter(handle))
    print(*children(), flush=True)
    time.sleep(600)
    """
    command = program(tmp_path, body)
    signals = [signal.SIGKILL, signal.SIGTERM]
    runs = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in signals
    ]
    pids = []
    for run, number in zip(runs, signals, strict=True):
        with run:
            pids += [int(pid) for pid in run.stdout.readline().split()]
            run.send_signal(number)
            run.stdout.close()

    assert len(pids) >= 2 * len(signals)
    wait_until_gone(pids)


def test_a_death_a_ctrl_c_and_an_end_in_good_order(tmp_path):
    """One start serves three checks."""
    body = """
    # A shell makes what it runs in the background ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with Generator("unillm/tiny", **OPTIONS) as generator:
        print(*children(), flush=True)
        # The terminal sends it to the whole group, the engine's processes are in none.
        signal.signal(signal.SIGALRM, lambda *_: os.killpg(0, signal.SIGINT))
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        try:
            generator.generate([COUNT] * 4, ENDLESS)
            generator.generate([COUNT] * 40, ENDLESS)
            print("no interrupt", flush=True)
        except KeyboardInterrupt:
            pass
        greedy = SamplingParams(temperature=0, max_tokens=60)
        again = generator.generate([COUNT], greedy)
        print(len(again), again[0].text, flush=True)

        handles = [generator.submit(COUNT, ENDLESS) for _ in range(3)]
        next(iter(handles[0]))
        [engine] = [c for c in active_children() if "EngineCore" in c.name]
        start = time.monotonic()
        os.kill(engine.pid, signal.SIGKILL)
        for handle in handles:
            try:
                handle.result(30)
            except EngineDeadError as error:
                print("SIGKILL" in str(error), time.monotonic() - start < 5, flush=True)
        try:
            generator.generate(COUNT)
        except EngineDeadError:
            print("dead", flush=True)
    """
    run = subprocess.run(
        program(tmp_path, body),
        capture_output=True,
        text=True,
        timeout=240,
        start_new_session=True,
        check=False,
    )

    pids, *lines = run.stdout.splitlines()
    assert lines == [
        "1 3 4 5 6 7 8 9",
        "True True",
        "True True",
        "True True",
        "dead",
    ], run.stderr
    wait_until_gone([int(pid) for pid in pids.split()])
    assert "force killing" not in run.stderr


def test_a_death_is_explained_when_its_exit_code_comes_late(monkeypatch):
    """The kernel reports the end of a process before its exit code can be read."""
    answers = iter([True, True, True])
    child = Mock(exitcode=-9, is_alive=lambda: next(answers, False))
    child.name = "EngineCore"
    monkeypatch.setattr(_processes, "_leads_a_group", lambda _: True)
    monkeypatch.setattr(multiprocessing, "active_children", lambda: [child])
    processes = _processes.EngineProcesses()
    processes.started()

    assert "EngineCore ended with SIGKILL" in processes.obituary()
    processes.close()


def test_a_stopped_and_a_hung_and_a_lost_process(tmp_path):
    """Waiting calls raise, closing takes ten seconds, and other engines go on."""
    body = """
    def start(**options):
        before = children()
        generator = Generator("unillm/tiny", **OPTIONS, **options)
        return generator, [pid for pid in children() if pid not in before]

    def strike(pids, kind, number):
        [found] = [pid for pid in pids if kind in says(pid)]
        os.kill(found, number)

    def ask(generator):
        handles = [generator.submit(COUNT, ENDLESS) for _ in range(3)]
        next(iter(handles[0]))
        return handles

    def failed(name, handles, error, within_s):
        start = time.monotonic()
        for handle in handles:
            try:
                handle.result(30)
            except error:
                print(name, "failed", time.monotonic() - start < within_s)

    def refused(name, generator):
        try:
            generator.generate(COUNT)
        except EngineDeadError:
            print(name, "refused")

    def closed(name, generator, pids):
        start = time.monotonic()
        generator.close()
        print(name, "closed", time.monotonic() - start < 11)
        time.sleep(1)
        print(name, "left", [pid for pid in pids if pid in children()], flush=True)

    stopped, stopped_pids = start(step_timeout_s=3)
    hung, hung_pids = start()
    lost, lost_pids = start()

    # The step timeout, and at most 5 s more.
    handles = ask(stopped)
    strike(stopped_pids, "EngineCore", signal.SIGSTOP)
    failed("stopped", handles, EngineDeadError, 3 + 5)
    refused("stopped", stopped)
    closed("stopped", stopped, stopped_pids)

    # The generator is closed while its engine waits for a worker that hangs.
    handles = ask(hung)
    strike(hung_pids, "Worker", signal.SIGSTOP)
    closed("hung", hung, hung_pids)
    failed("hung", handles, GeneratorClosedError, 1)

    handles = ask(lost)
    strike(lost_pids, "Worker", signal.SIGKILL)
    failed("lost", handles, EngineDeadError, 5)
    refused("lost", lost)
    closed("lost", lost, lost_pids)
    """
    run = subprocess.run(
        program(tmp_path, body),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )

    assert run.stdout.splitlines() == [
        *["stopped failed True"] * 3,
        "stopped refused",
        "stopped closed True",
        "stopped left []",
        "hung closed True",
        "hung left []",
        *["hung failed True"] * 3,
        *["lost failed True"] * 3,
        "lost refused",
        "lost closed True",
        "lost left []",
    ], run.stderr


def test_a_death_ends_every_call_that_waits_for_an_answer():
    """A step waits for outputs; the loading of an adapter waits for its answer."""
    loading, answered = Future(), Future()
    answered.set_result(True)
    core = SimpleNamespace(
        outputs_queue=Queue(), utility_results={1: loading, 2: answered}
    )
    config = SimpleNamespace(
        model_config=SimpleNamespace(max_model_len=512, get_vocab_size=lambda: 512),
        scheduler_config=SimpleNamespace(max_num_seqs=4),
    )
    died = []
    VllmEngine(
        SimpleNamespace(engine_core=core, vllm_config=config),
        processes=SimpleNamespace(watch=died.append),
        alone=None,
        threads=None,
        unsupported={},
        spells_exactly=True,
        no_adapter=None,
    )

    died[0]()

    assert isinstance(core.outputs_queue.get_nowait(), EngineDeadError)
    assert isinstance(loading.exception(0), EngineDeadError)
    assert answered.result(0)


def test_the_error_of_a_program_without_a_guard_names_the_guard(tmp_path):
    body = """
    try:
        Generator("unillm/tiny", **OPTIONS)
    except Exception as error:
        print(type(error).__name__, error, flush=True)
    """
    run = subprocess.run(
        program(tmp_path, body, guarded=False),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    assert "ConfigError" in run.stdout
    assert '__name__ == "__main__"' in run.stdout


def test_the_error_of_memory_that_runs_out_in_a_process_names_a_limit(tmp_path):
    body = """
    OPTIONS["backend_options"]["kv_cache_memory_bytes"] = 1 << 20
    OPTIONS["max_model_len"] = 1024
    try:
        Generator("unillm/tiny", **OPTIONS)
    except MemoryError as error:
        print(type(error).__name__, error, flush=True)
    """
    run = subprocess.run(
        program(tmp_path, body),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    assert "EngineOutOfMemoryError" in run.stdout
    assert "max_model_len=384" in run.stdout
