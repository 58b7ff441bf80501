# SPDX-License-Identifier: Apache-2.0

"""Figures of samples, the sweep, and two reports compared."""

from __future__ import annotations

import json

import attrs
import pytest

from unillm.bench.accounting import energy_between
from unillm.bench.comparing import compare_reports
from unillm.bench.costing import costs_of
from unillm.bench.costs import Price
from unillm.bench.figures import Round, Slo, figures_of
from unillm.bench.files import COLUMNS, as_csv, save
from unillm.bench.lines import Ready
from unillm.bench.plan import Plan, Side
from unillm.bench.report import Pair, Report, SideRecord, read_report
from unillm.bench.results import Bar, Result
from unillm.bench.roofline import Floor
from unillm.bench.samples import Run, Sample
from unillm.bench.statistics import decision, paired_ratio
from unillm.bench.sweeping import next_case
from unillm.bench.tokens import Counting
from unillm.bench.verdicts import Reason
from unillm.bench.workloads import Ask, Case, Fixed
from unillm.errors import ConfigError

CASE = Case(kind="batch", size=2, requests=2)
OPEN_CASE = Case(kind="open", size=4, requests=2)
FLOOR = Floor(run_s=0.5, first_token_s=0.01, step_s=0.001)
ASKS = [Ask(prompt=[5] * 8, max_tokens=10)] * 2


def sample(*, sent=0.0, first=0.1, last=1.0, tokens=10, **fields):
    return Sample(
        token_ids=list(range(10, 10 + tokens)),
        reported_tokens=tokens,
        num_prompt_tokens=8,
        sent_s=sent,
        first_s=first,
        last_s=last,
        **fields,
    )


def round_of(*samples, seconds=1.0, **fields):
    run = Run(samples=samples, seconds=seconds, **fields)
    return Round(run=run, asks=ASKS, floor=FLOOR)


def by_name(rounds, *, case=CASE, slo=None):
    return {f.name: f for f in figures_of(case, rounds, Counting(), slo)}


def test_throughput_is_tokens_by_seconds_beside_its_bound():
    found = by_name([round_of(sample(), sample(last=0.9))])

    assert (found["output"].spread.median, found["output"].bound) == (20.0, 40.0)
    assert found["output"].share == 0.5
    assert (found["input"].spread.median, found["requests"].spread.median) == (16, 2)
    assert found["tpot p50"].spread.median == pytest.approx((0.9 + 0.8) / 2 / 9)
    assert found["ttft p99"].share == pytest.approx(0.1)


def test_failed_requests_count_as_nothing():
    found = by_name([round_of(sample(), Sample(error="it fell"))])

    assert (found["output"].spread.median, found["requests"].spread.median) == (10, 1)


def test_goodput_counts_requests_that_keep_every_objective():
    rounds = [round_of(sample(first=0.1), sample(first=0.4))]

    assert by_name(rounds, slo=Slo(ttft_s=0.2))["goodput"].spread.median == 1
    assert by_name(rounds, slo=Slo(e2e_s=2.0))["goodput"].spread.median == 2
    assert (
        by_name(rounds, slo=Slo(ttft_s=0.5, tpot_s=0.01))["goodput"].spread.median == 0
    )


def test_a_request_without_times_keeps_no_objective():
    rounds = [round_of(sample(), sample(first=None, last=None))]

    assert by_name(rounds, slo=Slo(ttft_s=9.0))["goodput"].spread.median == 1


def test_the_processor_time_of_a_client_is_not_its_servers():
    assert "cpu" in by_name([round_of(sample(), cpu_s=1.0)])
    assert "cpu" not in by_name([round_of(sample(), cpu_s=1.0, client_cpu_s=0.9)])


def test_a_meter_that_began_anew_gives_no_energy():
    assert energy_between(5.0, 7.0) == 2.0
    assert energy_between(7.0, 5.0) is None
    assert energy_between(None, 5.0) is None


def test_slot_use_is_the_share_of_rows_in_use():
    rounds = [
        round_of(
            sample(slot=0, decode_steps=9), sample(slot=1, decode_steps=3, padding=4)
        )
    ]
    found = by_name(rounds)

    assert found["slot use"].spread.median == pytest.approx(12 / 18)
    assert found["padding"].spread.median == 4


def test_an_open_loop_has_how_late_its_requests_started():
    asks = [
        attrs.evolve(ask, at_s=at) for ask, at in zip(ASKS, (0.0, 0.5), strict=True)
    ]
    rounds = [attrs.evolve(round_of(sample(), sample(sent=0.52)), asks=asks)]

    found = by_name(rounds, case=OPEN_CASE)

    assert found["late start p99"].spread.median == pytest.approx(0.0198)


def test_a_sweep_doubles_the_rate_until_a_side_does_not_follow():
    follows = Run(samples=[sample(), sample(sent=2.0, last=3.0)], seconds=3.1)
    saturated = Run(samples=[sample(), sample(sent=2.0, last=9.0)], seconds=9.0)

    assert next_case(OPEN_CASE, [follows], None).size == 8
    assert next_case(OPEN_CASE, [saturated], None) is None
    assert next_case(OPEN_CASE, [follows], Slo(ttft_s=0.01)) is None


# ---------------------------------------------------------------------------- reports


def report_of(
    *,
    side="a",
    seconds=1.0,
    factor=0.5,
    reasons=(),
    price=None,
    workload="fixed",
    slo=None,
):
    """A report of two sides, the second twice as fast."""
    ready = Ready(backend=side, distribution=f"{side} 1", versions={}, build_s=60.0)
    sides, results = [], []
    for label, share in ((side, 1.0), (f"{side} fast", factor)):
        rounds = [
            round_of(
                sample(last=0.9 * seconds * share),
                sample(last=0.9 * seconds * share),
                seconds=seconds * share * (1 + n / 1000),
            )
            for n in range(10)
        ]
        sides.append(
            SideRecord(label=label, options={}, url=None, ready=ready, start_s=1.0)
        )
        results.append(
            Result(
                side=label,
                case=CASE,
                figures=figures_of(CASE, rounds, Counting(), slo),
                reasons=reasons,
                notes=["tokens are <counted>"],
                warmup_s=[2.0],
                percentiles={"ttft": [0.1] * 101, "e2e": [0.9] * 101},
                timeline=[Bar(slot=0, sent_s=0.0, first_s=0.1, last_s=0.9)],
            )
        )
    speeds = [result.figure("output").values for result in results]
    ratio = paired_ratio(*speeds)
    pair = Pair(
        case=CASE.name,
        sides=(side, f"{side} fast"),
        output_ratio=ratio,
        decision=decision(ratio),
        equality=None,
    )
    readies = {each.label: each.ready for each in sides}
    return Report(
        model="m <b>",
        conditions={
            "workload": {"kind": workload},
            "in_turn": False,
            "slo": None if slo is None else attrs.asdict(slo),
        },
        devices={},
        sides=sides,
        results=results,
        pairs=[pair],
        costs=costs_of(results, readies, price) if price else None,
    )


def verdicts(before, after):
    return {
        (each.side, each.figure): each.verdict
        for each in compare_reports(before, after)
    }


def test_a_later_report_is_better_where_the_intervals_do_not_touch():
    found = verdicts(report_of(), report_of(seconds=0.8))

    assert found["a", "output"] == "better"
    assert found["a", "e2e p50"] == "better"
    assert found["a", "ttft p50"] == "tie"
    assert verdicts(report_of(), report_of(seconds=1.2))["a", "output"] == "worse"
    assert verdicts(report_of(), report_of(seconds=1.001))["a", "output"] == "tie"


def test_an_invalid_report_has_no_better_figures():
    invalid = report_of(reasons=[Reason(check="padding", text="it is")])

    assert set(verdicts(report_of(), invalid).values()) == {"INVALID"}


def test_reports_of_other_work_are_not_compared():
    with pytest.raises(ConfigError, match="workloads differ"):
        compare_reports(report_of(), report_of(workload="lognormal"))
    with pytest.raises(ConfigError, match="share no case of one side"):
        compare_reports(report_of(), report_of(side="b"))


def test_goodput_is_compared_for_one_objective_only():
    strict, loose = report_of(slo=Slo(e2e_s=0.5)), report_of(slo=Slo(e2e_s=5.0))

    assert ("a", "goodput") in verdicts(loose, loose)
    assert ("a", "goodput") not in verdicts(strict, loose)
    assert ("a", "output") in verdicts(strict, loose)


def test_a_report_is_the_same_after_a_file(tmp_path):
    report = report_of(price=Price(per_hour=2.0, per_build=10, builds_per_month=1))
    (tmp_path / "r.json").write_text(report.to_json())

    again = read_report(tmp_path / "r.json")

    assert json.loads(again.to_json()) == json.loads(report.to_json())


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "is not a report"), ("{}", "a field is missing"), (None, "cannot|is not")],
)
def test_a_file_that_is_not_a_report_is_refused(text, message, tmp_path):
    path = tmp_path / "r.json"
    if text is not None:
        path.write_text(text)

    with pytest.raises(ConfigError, match=message):
        read_report(path)


def test_a_report_of_another_format_is_refused(tmp_path):
    path = tmp_path / "r.json"
    path.write_text(attrs.evolve(report_of(), format=99).to_json())

    with pytest.raises(ConfigError, match="has format 99"):
        read_report(path)


def test_costs_are_those_of_valid_cases_and_move_with_price_and_length():
    costs = report_of(price=Price(per_hour=3.6, per_build=9, builds_per_month=1)).costs

    assert [each.per_million for each in costs.sides] == pytest.approx(
        [50.0, 25.0], rel=0.01
    )
    factors = {(m.price_factor, m.length_factor): m.break_even for m in costs.moved}
    assert len(factors) == 5
    assert factors[1, 2].requests_per_day == pytest.approx(
        factors[1, 1].requests_per_day / 2
    )
    reasons = [Reason(check="padding", text="it is")]
    assert report_of(reasons=reasons, price=costs.price).costs.sides == []


def test_a_case_with_arrivals_at_a_rate_has_no_costs():
    report = report_of()
    results = [attrs.evolve(each, case=OPEN_CASE) for each in report.results]
    readies = {each.label: each.ready for each in report.sides}
    price = Price(per_hour=1.0)

    assert costs_of(results, readies, price).sides == []
    with pytest.raises(ConfigError, match="Add a case in full use: --batch"):
        Plan(
            model="m",
            sides=[Side(label="a")],
            workload=Fixed(prompt_tokens=1, output_tokens=1),
            cases=[OPEN_CASE],
            price=price,
        )


def test_a_side_that_is_not_faster_has_no_break_even():
    price = Price(per_hour=3.6, per_build=9, builds_per_month=1)
    report = report_of(factor=0.999)
    figures = report.results[1].figures
    # The second is faster in half of the rounds, and its median is higher.
    speeds = [20.0 + (1 if n % 2 else -1) for n in range(10)]
    output = attrs.evolve(
        figures[0], values=speeds, spread=attrs.evolve(figures[0].spread, median=21.0)
    )
    results = [
        report.results[0],
        attrs.evolve(report.results[1], figures=[output, *figures[1:]]),
    ]
    readies = {each.label: each.ready for each in report.sides}

    assert costs_of(results, readies, price).moved == []
    assert costs_of(report.results, readies, price).moved


def test_the_csv_has_a_line_a_figure():
    report = report_of()
    lines = as_csv(report).splitlines()

    assert lines[0] == ",".join(COLUMNS)
    assert len(lines) == 1 + sum(len(result.figures) for result in report.results)


def test_the_page_is_self_contained_and_escapes_names(tmp_path):
    pytest.importorskip("matplotlib", reason="the extra `bench` is not installed")
    reasons = [Reason(check="padding", text="6 < 7 tokens")]
    report = report_of(reasons=reasons, price=Price(per_hour=1.0))
    save(report, tmp_path / "new")
    page = (tmp_path / "new" / "report.html").read_text("utf-8")

    assert "m &lt;b&gt;" in page
    assert "6 &lt; 7 tokens" in page
    assert page.count("<svg") == page.count("<figure>") == 8
    assert "INVALID" in page
    assert "<li>batch 2, a: tokens are &lt;counted&gt;</li>" in page
    assert "<li>the sides ran one after another" in page
    for outside in ("<script", "<link", "<img", 'href="http', "url(http", "@import"):
        assert outside not in page
