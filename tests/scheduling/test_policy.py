# SPDX-License-Identifier: Apache-2.0

"""The policy in numbers: the measured costs, and the decisions that follow."""

from __future__ import annotations

import attrs
import pytest

from unillm.engines.batches import PromptWork
from unillm.scheduling.policy import (
    Costs,
    Prefill,
    RunProgress,
    best_run_length,
    pays_to_stop,
    prefill_of,
)


def costs_of(*, steps=(), token_s=None, rows=4, work=PromptWork.PACKED) -> Costs:
    """Return costs with measured steps and a measured prompt token."""
    costs = Costs(rows, work)
    for rows, seconds in steps:
        costs.note_step(rows, seconds)
    if token_s is not None:
        costs.note_prefill(1, rows=1, seconds=99.0)  # the first is left out
        seconds = 10 * token_s + costs.step_s(1)
        costs.note_prefill(10, rows=1, seconds=seconds)
    return costs


# ------------------------------------------------------------------------------ costs


def test_costs_are_zero_before_a_measurement():
    assert (Costs(4).step_s(4), Costs(4).prefill_token_s) == (0.0, 0.0)


def test_the_cost_of_a_step_is_a_mean():
    costs = costs_of(steps=[(2, 1.0), (2, 3.0)])

    assert costs.step_s(2) == pytest.approx(2.0)


def test_a_pause_of_the_machine_counts_as_four_steps():
    costs = costs_of(steps=[(2, 1.0)] * 4 + [(2, 900.0)])

    assert costs.step_s(2) == pytest.approx((4 * 1.0 + 4.0) / 5)


def test_the_first_steps_count_in_full():
    costs = costs_of(steps=[(2, 1.0)] * 3 + [(2, 9.0)])

    assert costs.step_s(2) == pytest.approx(3.0)


def test_a_mean_follows_an_engine_that_changes():
    costs = costs_of(steps=[(2, 1.0)] * 100 + [(2, 3.0)])

    assert costs.step_s(2) == pytest.approx(1.0 + 2.0 / 32)


def test_steps_are_interpolated_between_measured_numbers_of_rows():
    costs = costs_of(steps=[(2, 1.0), (6, 3.0)])

    assert [costs.step_s(n) for n in (2, 3, 4, 5, 6)] == [1.0, 1.5, 2.0, 2.5, 3.0]


def test_the_nearest_numbers_of_rows_decide():
    costs = costs_of(steps=[(1, 100.0), (2, 1.0), (4, 3.0), (8, 100.0)])

    assert costs.step_s(3) == 2.0


def test_beyond_the_measured_numbers_of_rows_the_nearest_decides():
    costs = costs_of(steps=[(2, 1.0), (6, 3.0)])

    assert (costs.step_s(1), costs.step_s(9)) == (1.0, 3.0)


def test_the_prefill_of_the_first_run_is_left_out():
    costs = Costs(4)

    costs.note_prefill(15, rows=1, seconds=0.4)
    costs.note_step(1, 0.01)

    assert costs.prefill_token_s == 0.0

    costs.note_prefill(100, rows=1, seconds=0.02)

    assert costs.prefill_token_s == pytest.approx(0.0001)


def test_a_prefill_includes_one_step():
    costs = Costs(4)
    costs.note_prefill(3, rows=2, seconds=1.0)
    costs.note_step(2, 0.02)

    costs.note_prefill(6, rows=2, seconds=0.02)

    assert costs.prefill_token_s == 0.0


def test_a_prompt_token_costs_at_most_a_step_of_one_row():
    costs = Costs(4)
    costs.note_prefill(4, rows=1, seconds=1.0)
    costs.note_step(1, 0.01)

    costs.note_prefill(4, rows=1, seconds=5.0)

    assert costs.prefill_token_s == 0.01


def test_the_second_whole_run_replaces_the_first():
    costs = Costs(4)
    costs.note_whole(10, steps=10, rows=4, seconds=50.0)
    assert costs.step_s(4) == pytest.approx(5.0)

    costs.note_whole(10, steps=10, rows=4, seconds=0.1)

    assert costs.step_s(4) == pytest.approx(0.01)


def test_many_whole_runs_separate_prompts_from_steps():
    costs = Costs(4)
    costs.note_whole(5, steps=5, rows=4, seconds=9.0)
    for tokens, steps in 20 * ((100, 10), (10, 30), (50, 20)):
        seconds = tokens * 0.001 + steps * 0.02
        costs.note_whole(tokens, steps=steps, rows=4, seconds=seconds)

    assert costs.prefill_token_s == pytest.approx(0.001, rel=0.2)
    assert costs.step_s(4) == pytest.approx(0.02, rel=0.2)


def test_the_costs_of_earlier_prompts_fade():
    costs = costs_of(steps=[(1, 1.0)])
    for tokens, seconds in ((7, 99.0), (100, 1.0 + 10.0), (10, 1.0 + 5.0)):
        costs.note_prefill(tokens, rows=1, seconds=seconds)

    assert costs.prefill_token_s == pytest.approx((0.9 * 10.0 + 5.0) / (0.9 * 100 + 10))


def test_two_whole_runs_with_different_shares_separate_prompts_from_steps():
    """A prompt token takes half a second, and a step two."""
    costs = Costs(4)

    costs.note_whole(10, steps=3, rows=4, seconds=10 * 0.5 + 3 * 2.0)
    assert costs.step_s(4) == pytest.approx(11.0 / 3)  # all of the time
    assert costs.prefill_token_s == 0.0

    costs.note_whole(40, steps=2, rows=2, seconds=40 * 0.5 + 2 * 2.0)
    assert costs.step_s(2) == pytest.approx(12.0)  # all of it again
    assert costs.step_s(4) == pytest.approx(12.0)  # without the first run

    costs.note_whole(25, steps=8, rows=1, seconds=25 * 0.5 + 8 * 2.0)
    assert costs.step_s(1) == pytest.approx(2.0)
    tokens = 0.9 * (0.9 * 10 + 40) + 25  # earlier tokens fade
    assert costs.prefill_token_s == pytest.approx(25 * 0.5 / tokens)


def test_whole_runs_with_equal_shares_count_for_steps_alone():
    costs = Costs(4)
    for _ in range(3):
        costs.note_whole(10, steps=5, rows=2, seconds=20.0)

    assert (costs.step_s(2), costs.prefill_token_s) == pytest.approx((4.0, 0.0))


def test_prompts_never_cost_less_than_zero():
    """More prompt tokens took less time: all of it counts for the steps."""
    costs = Costs(4)
    costs.note_whole(1, steps=1, rows=1, seconds=1.0)
    costs.note_whole(10, steps=10, rows=2, seconds=20.0)
    costs.note_whole(50, steps=10, rows=1, seconds=10.0)

    assert costs.prefill_token_s == 0.0
    expected = (0.9 * 10 * 20 + 10 * 10) / (0.9 * 100 + 100)
    assert costs.step_s(1) == pytest.approx(expected)


def test_steps_never_cost_less_than_zero():
    """More steps took less time: all of it counts for the prompts."""
    costs = Costs(4)
    costs.note_whole(1, steps=1, rows=1, seconds=1.0)
    costs.note_whole(10, steps=10, rows=2, seconds=20.0)
    costs.note_whole(10, steps=50, rows=3, seconds=10.0)

    assert costs.step_s(3) == 0.0
    token_s = (0.9 * 10 * 20 + 10 * 10) / (0.9 * 100 + 100)
    tokens = 0.9 * (0.9 * 1 + 10) + 10
    assert costs.prefill_token_s == pytest.approx(10 * token_s / tokens)


# ---------------------------------------------------------------------------- prompts


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (PromptWork.PACKED, (12, 0, 0)),
        (PromptWork.PADDED, (21, 9, 0)),
        (PromptWork.STEPWISE, (6, 0, 6)),
    ],
)
def test_the_work_for_prompts_depends_on_the_engine(work, expected):
    assert attrs.astuple(prefill_of([2, 3, 7], work)) == expected


@pytest.mark.parametrize("work", PromptWork)
def test_no_prompts_are_no_work(work):
    assert prefill_of([], work) == Prefill(0, 0, 0)


def test_a_fed_token_costs_a_rows_share_of_a_full_step():
    costs = costs_of(steps=[(4, 8.0)], token_s=0.5, work=PromptWork.STEPWISE)

    assert costs.prefill_s([3, 6]) == 6 * 0.5 + 3 * 2.0


# ------------------------------------------------------------------------------ stops

FULL_STEP, FED_BY_ONE, FED_BY_TWO = 8.0, 2.0, 3.0 / 2
"""Seconds of a step with four rows, and of a fed token for one and two survivors."""


@pytest.mark.parametrize(
    ("work", "survivors", "joining", "expected"),
    [
        (PromptWork.PACKED, [20, 30], [7], 50 * 0.5),
        # The padding that the survivor makes.
        (PromptWork.PADDED, [20], [7, 9], (3 * 20 - 2 * 9) * 0.5),
        # The steps that feed the survivors.
        (
            PromptWork.STEPWISE,
            [20, 30],
            [5],
            (3 * 5 - 5) * 0.5 + (55 - 15) * FED_BY_TWO,
        ),
        # Two prompts of 90 computed at once cost more than the first token of all
        # three; that does not make a stop cheaper.
        (PromptWork.STEPWISE, [1], [90, 90], 2 * 89 * FED_BY_ONE),
        (PromptWork.STEPWISE, [7], [7, 7], 7 * 0.5),
    ],
    ids=["tokens", "padding", "fed tokens", "saved prefill", "nothing fed"],
)
def test_a_stop_costs_a_step_and_the_work_that_survivors_add(
    work, survivors, joining, expected
):
    costs = costs_of(steps=[(1, 2.0), (2, 3.0), (4, 8.0)], token_s=0.5, work=work)

    assert costs.restart_s(survivors, joining) == FULL_STEP + expected


@pytest.mark.parametrize(
    ("live", "seconds", "wasted"), [(4, 8.0, 0.0), (1, 8.0, 6.0), (1, 1.5, 0.0)]
)
def test_a_step_wastes_the_seconds_beyond_its_rows_share(live, seconds, wasted):
    costs = costs_of(steps=[(4, 8.0)])

    assert costs.waste_s(live, seconds) == wasted


WORTH = RunProgress(
    live_rows=1,
    longest_left=100,
    waste_s=10.0,
    waited_s=0.0,
    patience_s=50.0,
    restart_s=10.0,
)
"""The run has wasted as much as a stop costs, and goes on for long."""


def is_stopped(progress: RunProgress = WORTH, **changes) -> bool:
    costs = costs_of(steps=[(1, 1.0), (4, 2.0)])  # one row wastes half a second
    return pays_to_stop(attrs.evolve(progress, **changes), costs)


def test_a_run_is_stopped_when_its_waste_reaches_the_restart():
    assert is_stopped()
    assert not is_stopped(waste_s=9.9)


def test_a_run_is_not_stopped_before_a_measurement():
    assert not is_stopped(restart_s=0.0, waste_s=5.0, waited_s=100.0)
    assert is_stopped(restart_s=0.5, waste_s=5.0)


def test_a_run_that_ends_by_itself_soon_is_not_stopped():
    assert not is_stopped(longest_left=10, waited_s=100.0)
    assert is_stopped(longest_left=11, waited_s=100.0)


def test_the_end_of_a_run_is_counted_in_seconds():
    assert not is_stopped(live_rows=4, longest_left=5, waited_s=100.0)
    assert is_stopped(live_rows=4, longest_left=6, waited_s=100.0)


def test_a_run_is_stopped_when_patience_ends():
    assert is_stopped(waited_s=50.0, waste_s=0.0)
    assert not is_stopped(waited_s=49.9, waste_s=0.0)


def test_a_run_that_can_no_longer_waste_a_restart_is_not_stopped():
    assert not is_stopped(longest_left=19, waste_s=50.0)
    assert is_stopped(longest_left=20, waste_s=50.0)


# --------------------------------------------------------- lengths chosen in advance


def best(candidates, **options) -> int:
    given = {
        "lengths": [10, 10],
        "left": [4, 40],
        "costs": costs_of(steps=[(1, 1.0), (2, 1.0)], token_s=0.1, rows=2),
    }
    return best_run_length(candidates, **{**given, **options})


def test_a_run_ends_at_the_highest_rate():
    """8 tokens take 2 + 4 s, and the survivor 2.4 s; 44 tokens take 2 + 40 s."""
    assert best([4, 40]) == 40


def test_a_rest_as_short_as_a_restart_is_never_left():
    """Not even if the survivor's prefill takes no time."""
    for token_s in (0.0, 0.1):
        costs = costs_of(steps=[(1, 1.0), (2, 1.0)], token_s=token_s, rows=2)
        assert best([4, 6], left=[4, 6], costs=costs) == 6


def test_a_long_rest_is_left_to_the_next_run():
    costs = costs_of(steps=[(1, 1.0), (8, 1.0)], token_s=1e-6, rows=8)
    left = [4] * 7 + [100]

    assert best([4, 100], left=left, lengths=[5] * 8, costs=costs) == 4


def test_a_run_goes_on_to_its_end_where_survivors_are_expensive():
    costs = costs_of(steps=[(1, 1.0), (8, 1.0)], token_s=1.0, rows=8)
    left = [4] * 7 + [100]

    assert best([4, 100], left=left, lengths=[5] * 8, costs=costs) == 100


def test_the_last_of_equally_good_ends_is_chosen():
    assert best([3, 9, 6], costs=Costs(2), left=[9, 9]) == 9


def test_prompts_count_in_the_rate_of_a_run():
    """Steps alone favour 2, but 12 spreads the prompts over more tokens."""
    costs = costs_of(steps=[(1, 1.0), (2, 1.1)], token_s=0.3, rows=2)

    assert best([2, 12], left=[2, 12], lengths=[50, 50], costs=costs) == 12
