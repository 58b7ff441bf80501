# SPDX-License-Identifier: Apache-2.0

"""Compiled decode steps give what eager ones give; without a compiler eager ones run."""

from __future__ import annotations

import gc
import logging
import weakref

import pytest
import torch
from embedded.serving import PoisonedEngine, greedy_request, serve, serve_known
from embedded.tiny_models import VARIANTS, family_of, make_model

from unillm.embedded.engine import TransformersSlotEngine
from unillm.embedded.loading import load_engine
from unillm.embedded.masks import FULL, SLIDING, Masks
from unillm.embedded.steps import cpu_compiled as compiled
from unillm.embedded.steps import joined
from unillm.embedded.steps.eager import EagerRunner
from unillm.embedded.steps.joined import JoiningRunner
from unillm.embedded.weights import onednn
from unillm.embedded.weights.onednn import pack_linears
from unillm.errors import ConfigError

COMPILABLE = [
    variant
    for variant in VARIANTS
    if (family := family_of(variant)).compiles
    and not (family.recurrent or family.own_attention or family.sinks)
    and variant != "phi3, longrope"  # its scaling depends on the positions
]


def run_compiled(reference, variant, *, compile_after=3) -> TransformersSlotEngine:
    """Serve prompts, and assert that their tokens are those of ``generate``."""
    model = make_model(variant)
    pack_linears(model)
    engine = PoisonedEngine(
        model, num_slots=8, max_model_len=224, compile_after=compile_after
    )

    serve_known(engine, reference, variant, 24, budget=90)

    return engine


@pytest.mark.slow
def test_tokens_of_compiled_steps_are_those_of_generate(reference, monkeypatch, caplog):
    """Steps are eager at first; rows join and leave, and free rows are NaN."""
    monkeypatch.setattr(onednn, "FEWEST_WEIGHTS", 0)
    caplog.set_level(logging.INFO, "unillm.transformers")

    engine = run_compiled(reference, "llama")

    assert list(engine._runner._compiled) == [8]
    assert [r.message.split()[0] for r in caplog.records] == ["Compiling", "Compiled"]


@pytest.mark.slow
def test_compiled_code_of_a_closed_engine_holds_no_weights():
    model = make_model("llama")
    engine = TransformersSlotEngine(
        model, num_slots=8, max_model_len=64, compile_after=0
    )
    serve(engine, [greedy_request(0, [5, 6, 7], 4)])
    assert list(engine._runner._compiled) == [8]
    held = [*model.parameters(), *engine._cache.tensors]
    watched = [weakref.ref(tensor) for tensor in held]

    engine.close()
    del held, model, engine
    gc.collect()

    assert [tensor for tensor in watched if tensor() is not None] == []


@pytest.mark.large
@pytest.mark.parametrize("variant", COMPILABLE)
def test_tokens_of_every_family_are_those_of_generate(reference, variant):
    engine = run_compiled(reference, variant)

    assert list(engine._runner._compiled) == [8]


def test_without_a_compiler_steps_are_eager_and_one_warning_says_so(
    reference, monkeypatch, caplog
):
    def no_compiler(*args):
        def step(fed):
            raise RuntimeError("No working C++ compiler found")

        return step

    monkeypatch.setattr(compiled, "compile_step", no_compiler)

    run_compiled(reference, "llama", compile_after=0)

    (record,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert "No working C++ compiler found" in record.message
    assert "enforce_eager=True" in record.message


@pytest.mark.parametrize(
    ("variant", "reason"),
    [
        ("bloom", "code of its own"),
        ("gpt_oss", "sinks"),
        ("youtu", "torch does not compile the attention of 'youtu'"),
    ],
)
def test_a_family_that_is_not_compiled_runs_eagerly_and_a_warning_says_why(
    caplog, variant, reason
):
    engine = TransformersSlotEngine(
        make_model(variant), num_slots=2, max_model_len=64, compile_after=0
    )

    assert type(engine._runner) is EagerRunner
    assert reason in caplog.text


@pytest.mark.parametrize(
    "options",
    [
        {"compile_after": None},
        {"enforce_eager": True},
        {"enforce_eager": True, "compile_after": 0},
    ],
)
def test_steps_that_are_not_to_be_compiled_are_eager(options):
    engine = TransformersSlotEngine(
        make_model("llama"), num_slots=2, max_model_len=64, **options
    )

    assert type(engine._runner) is EagerRunner


def test_steps_are_compiled_for_few_numbers_of_rows():
    engine = TransformersSlotEngine(
        make_model("llama"), num_slots=20, max_model_len=64, compile_after=0
    )

    rows = [engine._runner.rows_for(count) for count in (1, 8, 9, 16, 17, 20)]

    assert rows == [8, 8, 16, 16, 20, 20]


@pytest.mark.parametrize("steps", [-1, 0.5, "soon"])
def test_an_impossible_number_of_steps_is_refused(reference, steps):
    with pytest.raises(ConfigError, match="compile_after must be a number of steps"):
        load_engine(reference.path("llama"), compile_after=steps)


@pytest.mark.parametrize("variant", ["qwen2, windows", "mistral, window", "llama"])
def test_ranges_hide_what_the_additive_mask_hides(variant):
    masks = Masks.of(make_model(variant))
    positions = torch.tensor([0, 5, 23, 24, 63, 64, 130, 191])

    ranges = masks.in_ranges(torch.arange(8), positions)

    additive = masks.for_cached(positions[:, None], 192)
    kinds = {SLIDING: 0, FULL: 0} if isinstance(additive, dict) else {None: 0}
    for kind in kinds:
        rows, first, end = (ranges[kind] if kind else ranges)[0, 0]
        keys = torch.arange(192)
        seen = (keys >= first[:, None]) & (keys < end[:, None])
        expected = (additive[kind] if kind else additive)[:, 0, 0] == 0
        assert torch.equal(rows, torch.arange(8))
        assert torch.equal(seen, expected)


@pytest.fixture
def joined_passes(monkeypatch):
    """Return a list that gets tokens, starts and steps of each joined pass."""
    passes = []
    write = JoiningRunner.write_prompts

    def noted(self, rows, tokens, starts, *, steps=None):
        count = sum(map(len, tokens))
        passes.append((count, starts[: len(tokens)], steps is not None))
        return write(self, rows, tokens, starts, steps=steps)

    monkeypatch.setattr(JoiningRunner, "write_prompts", noted)
    return passes


@pytest.mark.slow
def test_prompts_and_steps_are_one_pass_once_steps_are_compiled(
    reference, joined_passes
):
    engine = run_compiled(reference, "llama", compile_after=0)

    assert engine.joins_steps
    assert any(steps and not any(starts) for _, starts, steps in joined_passes)
    assert any(steps and any(starts) for _, starts, steps in joined_passes)


@pytest.mark.slow
def test_steps_serve_another_number_of_threads_than_they_were_compiled_for(reference):
    threads = torch.get_num_threads()
    engine = run_compiled(reference, "llama", compile_after=0)
    torch.set_num_threads(threads + 1)
    try:
        serve_known(engine, reference, "llama", 24, budget=90)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.slow
def test_longer_prompts_are_computed_apart(reference, joined_passes, monkeypatch):
    monkeypatch.setattr(joined, "MOST_TOKENS", 40)

    run_compiled(reference, "mistral, window", compile_after=0)

    assert joined_passes
    assert all(count <= 40 for count, *_ in joined_passes)
