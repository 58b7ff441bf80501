# SPDX-License-Identifier: Apache-2.0

"""Loads of an engine: one at a time, and at arrival times."""

from __future__ import annotations

import itertools

import attrs
import pytest

from unillm import Generator
from unillm.bench.loads import EngineLoad
from unillm.bench.workloads import OPEN, Ask, Case
from unillm.testing.backends import ScriptedBackend, plugged
from unillm.testing.scripted import ScriptedEngine

ASKS = [Ask(prompt=[10 + n] * 4, max_tokens=6) for n in range(5)]


@pytest.fixture
def load():
    def engine(_):
        return ScriptedEngine(lambda _, place: 20 + place, vocab_size=512)

    with (
        plugged(ScriptedBackend(engine)),
        Generator("unillm/tiny", backend="scripted") as generator,
    ):
        yield EngineLoad(generator)


def test_a_closed_loop_has_so_many_requests_in_flight(load):
    run = load.run(Case(kind="closed", size=1, requests=5), ASKS)

    spans = sorted((sample.sent_s, sample.last_s) for sample in run.samples)
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(spans))
    for sample in run.samples:
        assert sample.token_ids == [20, 21, 22, 23, 24, 25]
        assert (len(sample.gaps), sample.same_prompt) == (5, True)


def test_an_open_loop_sends_no_request_before_its_time(load):
    asks = [attrs.evolve(ask, at_s=n * 0.02) for n, ask in enumerate(ASKS)]

    run = load.run(Case(kind=OPEN, size=50, requests=5), asks)

    assert [sample.error for sample in run.samples] == [None] * 5
    for sample, ask in zip(run.samples, asks, strict=True):
        assert ask.at_s <= sample.sent_s <= sample.first_s <= sample.last_s
        assert sample.last_s <= run.seconds


def test_a_refused_request_is_a_sample_with_its_error(load):
    too_long = Ask(prompt=[10] * 300, max_tokens=6)

    for kind in ("batch", "closed"):
        run = load.run(Case(kind=kind, size=2, requests=2), [ASKS[0], too_long])
        assert run.samples[0].error is None
        assert run.samples[1].error.startswith("PromptTooLongError: ")
