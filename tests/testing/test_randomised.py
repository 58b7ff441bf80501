# SPDX-License-Identifier: Apache-2.0

"""The random run finds defects that clauses of one field each let pass."""

from __future__ import annotations

import re

import pytest
from testing.broken.bases import SETTINGS, Own
from testing.subtle import (  # noqa: F401 - they register
    bans,
    ends,
    filters,
    logprobs,
    penalties,
    prompts,
)
from testing.subtle.bases import SUBTLE, Subtle

from unillm.engines.base import EngineLimits
from unillm.testing.asking import bundled_asker
from unillm.testing.backends import plugged, reference_backend
from unillm.testing.randomised import replay, run_random
from unillm.testing.randomised.requests import RequestSource

OPTIONS = SETTINGS["options"]

REQUESTS = 1200
"""Requests at most; most defects show in the first hundred."""


def run(backend, *, requests=REQUESTS, **own):
    return run_random(backend, requests=requests, options=OPTIONS, **own)


@pytest.mark.parametrize("kind", ["slots", "runs", "continuous"])
def test_a_correct_engine_has_no_fault(kind):
    report = run(reference_backend(kind), requests=200)

    assert (report.fault, report.program) == ("", "")
    assert report.requests == 200
    assert report.draws > 1000
    assert report.error_rate == 1e-6


def test_no_two_requests_draw_with_the_same_numbers_unless_one_says_that_it_repeats():
    capabilities = reference_backend().capabilities
    limits = EngineLimits(max_model_len=256, max_num_seqs=4, vocab_size=512)
    source = RequestSource(bundled_asker(), capabilities, limits, seed=1)
    jobs = [job for _ in range(40) for job in source.session(10)]

    seeds = [job.request.seed for job in jobs if not job.repeats]
    repeated = [job.request.seed for job in jobs if job.repeats]
    assert len(set(seeds)) == len(seeds) > 200
    assert repeated
    assert set(repeated) <= set(seeds)
    assert sum(seed < 2**16 for seed in seeds) > 50


@pytest.mark.parametrize("defect", SUBTLE, ids=lambda each: each.name)
def test_the_random_run_finds(defect):
    report = run(defect.backend(), shrink=False)

    assert re.search(defect.found_by, report.fault), defect.breaks


class ForgetsTheSeed(Own):
    """Draws with the number of the request, not its seed."""

    count = 0

    def add_request(self, request):
        self.count += 1
        super().add_request(self.changed(request, seed=self.count))


FORGETFUL = Subtle(
    name="ForgetsTheSeed",
    breaks=ForgetsTheSeed.__doc__,
    make_engine=ForgetsTheSeed,
    found_by="The same request",
)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("BiasesAfterPenalties", "score"),
        ("SeedsOf32Bits", "does not use all 64 bits"),
        ("ForgetsTheSeed", "The same request with the seed"),
    ],
)
def test_the_program_of_a_fault_shows_it_again(name, message):
    [defect] = [each for each in [*SUBTLE, FORGETFUL] if each.name == name]
    report = run(defect.backend())

    assert re.search(defect.found_by, report.fault)
    assert len(report.program.splitlines()) < 40
    with plugged(defect.backend()), pytest.raises(AssertionError, match=message):
        exec(report.program, {})


def test_a_request_without_a_fault_replays_in_silence():
    replay(reference_backend(), [{"prompt": "Add 8 and 30:"}], options=OPTIONS)


def test_there_are_at_least_forty_subtle_defects():
    assert len({each.name for each in SUBTLE}) == len(SUBTLE) >= 40
