# SPDX-License-Identifier: Apache-2.0

"""Asks of each kind of workload, and their arrivals."""

from __future__ import annotations

import random
import statistics

import pytest

from unillm.bench.plan import article
from unillm.bench.workloads import (
    OPEN,
    Case,
    Fixed,
    Lengths,
    Lognormal,
    Prompts,
    arrivals,
    asks_of,
    described,
    read_records,
)
from unillm.errors import ConfigError

IDS = range(10, 400)


def rng():
    return random.Random(0)


def test_files_of_one_kind_are_other_work_for_a_comparison():
    one, other, again = (
        described(Lengths(pairs=pairs)) for pairs in ([(5, 6)], [(5, 7)], [(5, 6)])
    )

    assert one != other
    assert one == again
    assert "pairs" not in one


def test_the_article_is_128_in_and_100_out_in_batches_of_1_4_and_8():
    workload, cases = article()

    assert [(case.kind, case.size, case.requests) for case in cases] == [
        ("batch", 1, 1),
        ("batch", 4, 4),
        ("batch", 8, 8),
    ]
    [ask] = workload.draw(rng(), 1, IDS)
    assert (len(ask.prompt), ask.max_tokens) == (128, 100)


def test_prompts_are_new_in_each_draw():
    source = rng()
    first, second = (
        Fixed(prompt_tokens=8, output_tokens=1).draw(source, 1, IDS) for _ in "ab"
    )

    assert first != second


def test_lognormal_lengths_have_their_mean():
    asks = Lognormal(prompt_tokens=100, output_tokens=50).draw(rng(), 4000, IDS)

    assert statistics.mean(len(a.prompt) for a in asks) == pytest.approx(100, rel=0.1)
    assert statistics.mean(a.max_tokens for a in asks) == pytest.approx(50, rel=0.1)
    assert len({a.max_tokens for a in asks}) > 50


def test_arrivals_have_their_rate():
    times = arrivals(rng(), 5.0, 5000)

    assert times == sorted(times)
    assert times[-1] == pytest.approx(1000, rel=0.05)


def test_only_an_open_loop_has_arrival_times():
    workload = Fixed(prompt_tokens=2, output_tokens=2)
    closed = asks_of(Case(kind="closed", size=2, requests=3), workload, rng(), IDS)
    opened = asks_of(Case(kind=OPEN, size=2, requests=3), workload, rng(), IDS)

    assert [ask.at_s for ask in closed] == [None] * 3
    assert None not in [ask.at_s for ask in opened]


def test_a_request_log_gives_its_lengths():
    records = [{"usage": {"prompt_tokens": 7, "completion_tokens": 3}}] * 2
    workload = read_records(records, place="log", output_tokens=9)

    assert isinstance(workload, Lengths)
    assert [len(a.prompt) for a in workload.draw(rng(), 2, IDS)] == [7, 7]
    assert workload.draw(rng(), 1, IDS)[0].max_tokens == 3


@pytest.mark.parametrize(
    ("record", "prompt"),
    [
        ({"prompt": "a"}, {"prompt": "a"}),
        ({"prompt_token_ids": [5, 6]}, [5, 6]),
        ({"messages": [{"role": "user"}]}, {"messages": [{"role": "user"}]}),
        (
            {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt"}]},
            {"prompt": "a"},
        ),
    ],
)
def test_a_file_gives_its_prompts(record, prompt):
    workload = read_records([record], place="f", output_tokens=9)

    assert isinstance(workload, Prompts)
    assert workload.draw(rng(), 3, IDS) == workload.asks * 3
    assert (workload.asks[0].prompt, workload.asks[0].max_tokens) == (prompt, 9)


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "no records"),
        ([{"text": "a"}], "record 1: keys text"),
        ([{"prompt": "a"}, {"prompt_tokens": 1, "completion_tokens": 1}], "one kind"),
    ],
)
def test_other_files_are_refused(records, message):
    with pytest.raises(ConfigError, match=message):
        read_records(records, place="f", output_tokens=9)
