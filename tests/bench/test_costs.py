# SPDX-License-Identifier: Apache-2.0

"""Costs and break-even, and the numbers of the page about them."""

from __future__ import annotations

import re
from pathlib import Path

import attrs
import pytest

from unillm.bench.costs import (
    HOURS_A_MONTH,
    Price,
    Rate,
    break_even,
    cost_per_million,
    tokens_to_catch_up,
)
from unillm.bench.device import Device
from unillm.bench.roofline import Cost, floor_of
from unillm.bench.workloads import Ask, Case
from unillm.errors import ConfigError

SLOW = Rate(tokens_per_s=1000, tokens_per_request=100)
FAST = Rate(tokens_per_s=2000, tokens_per_request=100, is_built=True, build_s=3600)
PRICE = Price(per_hour=3.6, per_build=500, builds_per_month=2)
RTX_4090 = Device(
    kind="cuda",
    name="RTX 4090",
    cores=1,
    bandwidth=1008e9,
    memory_bandwidth=1008e9,
    flops=165e12,
    flops_by_type={},
    measured_bytes=0,
    library="the data sheet",
)
PAGE = Path(__file__).parents[2] / "docs/explanation/break-even.md"


def test_a_million_tokens_cost_their_share_of_the_hours():
    assert cost_per_million(3.6, 1000) == pytest.approx(1.0)


def test_break_even_is_where_both_bills_are_equal():
    found = break_even(SLOW, FAST, PRICE)

    assert found.saving_per_million == pytest.approx(0.5)
    assert found.fixed_per_month == pytest.approx(2 * (500 + 3.6))
    millions = found.tokens_per_month / 1e6
    assert millions * SLOW.per_million(PRICE) == pytest.approx(
        millions * FAST.per_million(PRICE) + FAST.fixed_per_month(PRICE)
    )
    assert found.machines == pytest.approx(
        found.tokens_per_month / 1000 / 3600 / HOURS_A_MONTH
    )


def test_twice_the_length_needs_half_the_requests():
    longer = [attrs.evolve(each, tokens_per_request=200) for each in (SLOW, FAST)]

    one, two = break_even(SLOW, FAST, PRICE), break_even(*longer, PRICE)

    assert two.tokens_per_month == one.tokens_per_month
    assert two.requests_per_day == pytest.approx(one.requests_per_day / 2)


def test_a_faster_engine_without_builds_pays_at_once():
    found = break_even(SLOW, attrs.evolve(FAST, is_built=False), PRICE)

    assert (found.tokens_per_month, found.requests_per_day) == (0, 0)


def test_a_slower_engine_is_refused():
    with pytest.raises(ConfigError, match="order must be the other"):
        break_even(FAST, SLOW, PRICE)


def test_a_month_is_billed_in_whole_machines():
    price = attrs.evolve(PRICE, requests_per_day=864_000 * 1.5)  # 1500 tokens/s

    assert SLOW.monthly_bill(price) == pytest.approx(2 * 3.6 * HOURS_A_MONTH)
    assert FAST.monthly_bill(price) == pytest.approx(
        3.6 * HOURS_A_MONTH + 2 * (500 + 3.6)
    )
    assert SLOW.monthly_bill(PRICE) is None


def test_an_engine_that_starts_late_catches_up():
    tokens = tokens_to_catch_up(SLOW, FAST, late_s=60)

    assert tokens / 1000 == pytest.approx(60 + tokens / 2000)
    assert tokens_to_catch_up(FAST, SLOW, late_s=60) is None
    assert tokens_to_catch_up(SLOW, FAST, late_s=-1) == 0


@pytest.mark.parametrize("wrong", [{"per_hour": 0}, {"per_hour": 1, "per_build": -1}])
def test_impossible_prices_are_refused(wrong):
    with pytest.raises(ConfigError, match="nothing may be negative"):
        Price(**wrong)


def test_the_page_has_the_numbers_of_the_functions():
    """Each row of the page's table is computed once more from its own inputs."""
    cell = r" ([\d.,]+) \|"
    rows = re.findall(rf"^\| (\d) \|{cell * 6}$", PAGE.read_text("utf-8"), re.MULTILINE)
    price = Price(per_hour=0.5, per_build=100, builds_per_month=2)

    assert len(rows) == 3
    for _, slow, fast, *shown in rows:
        slower = Rate(tokens_per_s=float(slow), tokens_per_request=100)
        faster = Rate(
            tokens_per_s=float(fast),
            tokens_per_request=100,
            is_built=True,
            build_s=900,
        )
        found = break_even(slower, faster, price)
        assert shown == [
            f"{found.saving_per_million:.2f}",
            f"{found.tokens_per_month / 1e6:,.0f}",
            f"{found.requests_per_day:,.0f}",
            f"{found.machines:.2f}",
        ]


def test_the_page_has_the_bounds_of_the_card():
    rows = re.findall(
        r"^\| (\d+) bits \| (\d+) \| (\d+) \| (\d+) \|$",
        PAGE.read_text("utf-8"),
        re.MULTILINE,
    )

    assert len(rows) == 2
    for bits, *shown in rows:
        cost = Cost(
            weight_bytes=15_010_000_000 * int(bits) // 16,
            kv_bytes_per_token=131_072,
            flops_per_token=2 * 7_504_924_672,
            head_flops=2 * 128_256 * 4096,
        )
        for batch, bound in zip((1, 4, 8), shown, strict=True):
            case = Case(kind="batch", size=batch, requests=batch)
            asks = [Ask(prompt=[5] * 128, max_tokens=100)] * batch
            floor = floor_of(case, asks, cost, RTX_4090)
            assert f"{100 * batch / floor.run_s:.0f}" == bound
