# SPDX-License-Identifier: Apache-2.0

"""Which prompts the sides of a measurement get."""

from __future__ import annotations

import contextlib
import os
from types import SimpleNamespace

import pytest

from unillm.bench import runner
from unillm.bench.lines import Ready
from unillm.bench.plan import Plan, Side
from unillm.bench.samples import Run, Sample
from unillm.bench.workloads import Case, Fixed

KNOWN = {"http://a": (512, [7]), "http://b": (None, [])}
"""Size of the vocabulary and EOS tokens that each side knows of."""


@pytest.mark.parametrize("one_after_another", [True, False])
def test_all_sides_get_the_same_prompts(one_after_another, monkeypatch):
    prompts = {url: [] for url in KNOWN}

    class Live(runner._Live):
        def run(self, case, asks):
            prompts[self.side.url] += [ask.prompt for ask in asks]
            return Run(samples=[Sample(reported_tokens=1) for _ in asks], seconds=1.0)

        def rest(self):
            pass

    @contextlib.contextmanager
    def live(plan, side, show_log):
        size, eos = KNOWN[side.url]
        ready = Ready(
            backend="b",
            distribution="d",
            versions={},
            vocab_size=size,
            eos_token_ids=eos,
        )
        yield Live(side, SimpleNamespace(pid=os.getpid()), ready, 0.0)

    monkeypatch.setattr(runner, "_live", live)
    plan = Plan(
        model="m",
        sides=[Side(label=url, url=url) for url in KNOWN],
        workload=Fixed(prompt_tokens=40, output_tokens=1),
        cases=[Case(kind="batch", size=2, requests=2)],
        rounds=2,
        one_after_another=one_after_another,
    )

    runner.measure(plan)

    first, second = prompts.values()
    assert len(first) == 10
    assert first == second
