# SPDX-License-Identifier: Apache-2.0

"""Steps that a process compiles while the engine goes on with eager ones."""

from __future__ import annotations

import gc
import logging
import signal
import subprocess
import sys
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from embedded.serving import PoisonedEngine, greedy_request, serve, serve_known
from embedded.test_cpu_compiled import COMPILABLE
from embedded.tiny_models import make_model

from unillm.embedded.engine import TransformersSlotEngine
from unillm.embedded.steps import background, blueprint, compiling
from unillm.embedded.steps.background import BackgroundRunner, Way
from unillm.embedded.steps.eager import EagerRunner
from unillm.embedded.steps.one_thread import OneThread
from unillm.embedded.weights import onednn
from unillm.embedded.weights.onednn import pack_linears

pytestmark = pytest.mark.skipif(
    not background.can_compile(), reason="no C++ compiler, or no core for it"
)


@pytest.fixture(autouse=True)
def _short_runs_are_long(monkeypatch):
    monkeypatch.setattr(background, "BUSY_S", 0)
    # Other tests may keep all cores busy.
    impatient = compiling._COMMAND.replace(
        "step_compiler.main", "step_compiler._take_idle_time = int; step_compiler.main"
    )
    assert impatient != compiling._COMMAND
    monkeypatch.setattr(compiling, "_COMMAND", impatient)


def make_engine(variant: str = "llama", **options) -> TransformersSlotEngine:
    model = make_model(variant)
    pack_linears(model)
    return PoisonedEngine(model, num_slots=8, max_model_len=224, **options)


def wait_for_compiler(engine) -> None:
    """Step until no process compiles."""
    while engine._runner._compilation is not None:
        serve(engine, [greedy_request(0, [5, 6, 7], 4)])
        time.sleep(0.05)


def serve_through_both(engine, reference, variant: str) -> None:
    """Assert that eager steps, both in turn and compiled ones give known tokens."""
    serve_known(engine, reference, variant, 24, budget=90)
    wait_for_compiler(engine)
    serve_known(engine, reference, variant, 24, budget=90)
    for trial in engine._runner._trials.values():
        trial._verdict = background.Way.COMPILED  # however busy the machine is
    serve_known(engine, reference, variant, 24, budget=90)


@pytest.mark.slow
def test_tokens_stay_those_of_generate_when_compiled_steps_take_over(
    reference, monkeypatch, caplog
):
    monkeypatch.setattr(onednn, "FEWEST_WEIGHTS", 0)
    caplog.set_level(logging.INFO, "unillm.transformers")
    engine = make_engine()

    serve_through_both(engine, reference, "llama")

    assert [r.message.split()[0] for r in caplog.records] == ["A", "Decode"]
    assert list(engine._runner._compiled) == [8]
    assert [engine._runner.rows_for(count) for count in (1, 8)] == [8, 8]
    watched = [weakref.ref(tensor) for tensor in engine._cache.tensors]
    engine.close()
    del engine
    gc.collect()
    assert [tensor for tensor in watched if tensor() is not None] == []


@pytest.mark.large
@pytest.mark.parametrize("variant", COMPILABLE)
def test_tokens_of_every_family_stay_those_of_generate(reference, variant, caplog):
    engine = make_engine(variant)

    serve_through_both(engine, reference, variant)

    assert list(engine._runner._compiled) == [8], caplog.text
    engine.close()


def test_a_process_that_fails_leaves_eager_steps_and_one_warning(
    reference, monkeypatch, caplog
):
    monkeypatch.setattr(compiling, "_COMMAND", "raise SystemExit(3)")
    engine = make_engine()

    serve_known(engine, reference, "llama", 24, budget=90)
    wait_for_compiler(engine)
    serve_known(engine, reference, "llama", 24, budget=90)

    (record,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert "the compiling process ended with status 3" in record.message
    assert "enforce_eager=True" in record.message


def test_a_model_that_cannot_be_described_leaves_eager_steps(reference, caplog):
    engine = make_engine()
    engine._runner._model.note = lambda: None

    serve_known(engine, reference, "llama", 24, budget=90)

    (record,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert "pickle" in record.message


def test_a_compiled_step_that_fails_is_taken_eagerly(reference, caplog):
    def broken(fed):
        raise RuntimeError("illegal instruction")

    engine = make_engine()
    engine._runner._compiled[8] = broken

    serve_known(engine, reference, "llama", 24, budget=90)

    (record,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert "illegal instruction" in record.message


@pytest.mark.parametrize("fastest", list(Way))
def test_the_fastest_way_is_kept(fastest):
    trial = background._Trial(Way)
    for _ in range(3 * background._TRIALS):
        way = trial.way()
        trial.note(1.0 if way is fastest else 2.0, way)

    assert trial.way() is fastest

    for _ in range(background._FIRST_TRIAL_HOLDS):  # then they are compared again
        trial.note(1.0, fastest)
    assert trial._verdict is None


def test_later_verdicts_hold_longer():
    trial = background._Trial(Way)

    held = []
    for _ in range(3):
        while trial._verdict is None:
            trial.note(1.0, trial.way())
        held.append(0)
        while trial._verdict is not None:
            trial.note(1.0, trial.way())
            held[-1] += 1

    first, later = background._FIRST_TRIAL_HOLDS, background._TRIAL_HOLDS
    assert held == [first, later, later]


@pytest.fixture
def two_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("two_threads")
def test_one_thread_is_that_of_the_block_and_of_its_thread_alone():
    def in_another() -> int:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(torch.get_num_threads).result()

    one_thread = OneThread()
    assert one_thread.changes

    with one_thread:
        assert (torch.get_num_threads(), in_another()) == (1, 2)

    assert torch.get_num_threads() == 2


def test_a_step_on_one_thread_has_no_way_of_its_own_where_all_have_one():
    assert torch.get_num_threads() == 1

    assert not OneThread().changes


def test_closing_an_engine_ends_its_compiler(monkeypatch):
    monkeypatch.setattr(compiling, "_COMMAND", "import time; time.sleep(600)")
    engine = make_engine()
    serve(engine, [greedy_request(0, [5, 6, 7], 6)])
    compilation = engine._runner._compilation
    while compilation._process is None:
        time.sleep(0.01)

    engine.close()
    engine.close()

    assert compilation._process.returncode == -signal.SIGKILL
    assert compilation.is_over()


def test_the_process_and_its_compilers_end_with_the_program():
    """A program that is killed closes its end of the pipe and does nothing else."""
    code = (
        "import os, subprocess; from unillm.embedded import step_compiler; "
        "os.setsid(); subprocess.Popen(['sleep', '600']); "
        "step_compiler._wait_for_end()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )

    process.stdin.close()

    # Its output is closed once no process of the group has it open.
    assert process.stdout.read() == b""
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()


def test_nothing_is_compiled_where_memory_is_short(monkeypatch):
    monkeypatch.setattr(background, "FREE_BYTES", 2**60)
    engine = make_engine()

    serve(engine, [greedy_request(0, [5, 6, 7], 20)])

    assert engine._runner._compilation is None


def test_without_a_compiler_no_process_is_started(monkeypatch, caplog):
    monkeypatch.setenv("CXX", "no-such-compiler")

    assert type(make_engine()._runner) is EagerRunner
    assert caplog.records == []


@pytest.mark.parametrize(
    ("quota", "compiles"), [(None, True), (1.5, False), (99, True)]
)
def test_a_quota_must_leave_a_core_for_the_compiler(monkeypatch, quota, compiles):
    monkeypatch.setattr(background, "cpu_quota", lambda: quota)
    monkeypatch.setattr(background.torch, "get_num_threads", lambda: 2)

    runner = make_engine()._runner

    assert type(runner) is (BackgroundRunner if compiles else EagerRunner)


def test_a_family_that_is_not_compiled_is_not_worth_a_warning(caplog):
    engine = TransformersSlotEngine(make_model("youtu"), num_slots=2, max_model_len=64)

    assert type(engine._runner) is EagerRunner
    assert caplog.records == []


def test_a_blueprint_has_the_structure_of_a_model_and_none_of_its_numbers():
    model = make_model("qwen2")  # its embeddings are its output layer's weights
    size = sum(each.numel() for each in model.parameters())

    dumped, tensors = blueprint.dump(model)
    copy, empty = blueprint.load(dumped)

    assert len(dumped) < size
    assert copy.lm_head.weight is copy.model.embed_tokens.weight
    assert [described(each) for each in empty] == [described(each) for each in tensors]
    assert {id(each) for each in copy.parameters()} <= {id(each) for each in empty}


def described(tensor):
    return type(tensor), tensor.shape, tensor.stride(), tensor.dtype, tensor.device
