# SPDX-License-Identifier: Apache-2.0

"""The policy in numbers: what is learned of an engine, and what follows from it."""

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
    restart_s,
    step_waste_s,
)


def costs_of(*, steps=(), token_s=None) -> Costs:
    """Return costs that have learned what steps and a prompt token take."""
    costs = Costs()
    for rows, seconds in steps:
        costs.note_step(rows, seconds)
    if token_s is not None:
        costs.note_prefill(1, rows=1, seconds=99.0)  # the first call says nothing
        seconds = 10 * token_s + costs.step_s(1)
        costs.note_prefill(10, rows=1, seconds=seconds)
    return costs


# ------------------------------------------------------------------- what is learned


def test_nothing_costs_anything_before_it_was_measured():
    assert (Costs().step_s(4), Costs().prefill_token_s) == (0.0, 0.0)


def test_the_cost_of_a_step_is_the_mean_of_what_was_measured():
    costs = costs_of(steps=[(2, 1.0), (2, 3.0)])

    assert 2.0 == pytest.approx(costs.step_s(2))


def test_a_pause_of_the_machine_counts_as_four_steps():
    costs = costs_of(steps=[(2, 1.0)] * 4 + [(2, 900.0)])

    assert (4 * 1.0 + 4.0) / 5 == pytest.approx(costs.step_s(2))


def test_the_first_steps_count_whatever_they_took():
    costs = costs_of(steps=[(2, 1.0)] * 3 + [(2, 9.0)])

    assert 3.0 == pytest.approx(costs.step_s(2))


def test_a_mean_follows_an_engine_that_changes():
    costs = costs_of(steps=[(2, 1.0)] * 100 + [(2, 3.0)])

    assert 1.0 + 2.0 / 32 == pytest.approx(costs.step_s(2))


def test_between_two_counts_of_rows_a_step_is_interpolated():
    costs = costs_of(steps=[(2, 1.0), (6, 3.0)])

    assert [costs.step_s(n) for n in (2, 3, 4, 5, 6)] == [1.0, 1.5, 2.0, 2.5, 3.0]


def test_of_several_counts_the_nearest_on_each_side_decide():
    costs = costs_of(steps=[(1, 100.0), (2, 1.0), (4, 3.0), (8, 100.0)])

    assert costs.step_s(3) == 2.0


def test_beyond_what_was_measured_a_step_costs_what_the_nearest_does():
    costs = costs_of(steps=[(2, 1.0), (6, 3.0)])

    assert (costs.step_s(1), costs.step_s(9)) == (1.0, 3.0)


def test_the_first_call_of_an_engine_says_nothing_of_its_prompts():
    costs = Costs()

    costs.note_prefill(15, rows=1, seconds=0.4)
    costs.note_step(1, 0.01)

    assert costs.prefill_token_s == 0.0

    costs.note_prefill(100, rows=1, seconds=0.02)

    assert costs.prefill_token_s == pytest.approx(0.0001)


def test_prompts_take_what_is_beyond_a_step():
    costs = Costs()
    costs.note_prefill(3, rows=2, seconds=1.0)
    costs.note_step(2, 0.02)

    costs.note_prefill(6, rows=2, seconds=0.02)

    assert costs.prefill_token_s == 0.0


def test_a_prompt_token_takes_no_more_than_a_step_of_one_row():
    costs = Costs()
    costs.note_prefill(4, rows=1, seconds=1.0)
    costs.note_step(1, 0.01)

    costs.note_prefill(4, rows=1, seconds=5.0)

    assert costs.prefill_token_s == 0.01


def test_what_the_first_run_told_as_a_whole_is_replaced_by_the_next():
    costs = Costs()
    costs.note_whole(10, steps=10, rows=4, seconds=50.0)
    assert costs.step_s(4) == pytest.approx(5.0)

    costs.note_whole(10, steps=10, rows=4, seconds=0.1)

    assert costs.step_s(4) == pytest.approx(0.01)


def test_prompts_and_steps_are_told_apart_by_many_runs():
    costs = Costs()
    costs.note_whole(5, steps=5, rows=4, seconds=9.0)
    for tokens, steps in 20 * ((100, 10), (10, 30), (50, 20)):
        seconds = tokens * 0.001 + steps * 0.02
        costs.note_whole(tokens, steps=steps, rows=4, seconds=seconds)

    assert costs.prefill_token_s == pytest.approx(0.001, rel=0.2)
    assert costs.step_s(4) == pytest.approx(0.02, rel=0.2)


def test_what_prompts_cost_is_forgotten_slowly():
    costs = costs_of(steps=[(1, 1.0)])
    for tokens, seconds in ((7, 99.0), (100, 1.0 + 10.0), (10, 1.0 + 5.0)):
        costs.note_prefill(tokens, rows=1, seconds=seconds)

    assert (0.9 * 10.0 + 5.0) / (0.9 * 100 + 10) == pytest.approx(costs.prefill_token_s)


def test_two_runs_with_other_shares_tell_prompts_and_steps_apart():
    """Half a second a prompt token, and two a step."""
    costs = Costs()

    costs.note_whole(10, steps=3, rows=4, seconds=10 * 0.5 + 3 * 2.0)
    assert 11.0 / 3 == pytest.approx(costs.step_s(4))  # all of it
    assert costs.prefill_token_s == 0.0

    costs.note_whole(40, steps=2, rows=2, seconds=40 * 0.5 + 2 * 2.0)
    assert 12.0 == pytest.approx(costs.step_s(2))  # all of it, once more
    assert 12.0 == pytest.approx(costs.step_s(4))  # the first run is forgotten

    costs.note_whole(25, steps=8, rows=1, seconds=25 * 0.5 + 8 * 2.0)
    assert 2.0 == pytest.approx(costs.step_s(1))
    tokens = 0.9 * (0.9 * 10 + 40) + 25  # forgotten slowly
    assert 25 * 0.5 / tokens == pytest.approx(costs.prefill_token_s)


def test_runs_with_the_same_shares_teach_steps_alone():
    costs = Costs()
    for _ in range(3):
        costs.note_whole(10, steps=5, rows=2, seconds=20.0)

    assert (4.0, 0.0) == pytest.approx((costs.step_s(2), costs.prefill_token_s))


def test_prompts_never_take_less_than_nothing():
    """More prompt tokens took less: all of the time is that of the steps."""
    costs = Costs()
    costs.note_whole(1, steps=1, rows=1, seconds=1.0)
    costs.note_whole(10, steps=10, rows=2, seconds=20.0)
    costs.note_whole(50, steps=10, rows=1, seconds=10.0)

    assert costs.prefill_token_s == 0.0
    expected = (0.9 * 10 * 20 + 10 * 10) / (0.9 * 100 + 100)
    assert expected == pytest.approx(costs.step_s(1))


def test_steps_never_take_less_than_nothing():
    """More steps took less: all of the time is that of the prompts."""
    costs = Costs()
    costs.note_whole(1, steps=1, rows=1, seconds=1.0)
    costs.note_whole(10, steps=10, rows=2, seconds=20.0)
    costs.note_whole(10, steps=50, rows=3, seconds=10.0)

    assert costs.step_s(3) == 0.0
    token_s = (0.9 * 10 * 20 + 10 * 10) / (0.9 * 100 + 100)
    tokens = 0.9 * (0.9 * 1 + 10) + 10
    assert 10 * token_s / tokens == pytest.approx(costs.prefill_token_s)


# ------------------------------------------------------------------------ of prompts


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (PromptWork.PACKED, (12, 0, 0)),
        (PromptWork.PADDED, (21, 9, 0)),
        (PromptWork.STEPWISE, (6, 0, 6)),
    ],
)
def test_the_work_of_prompts_follows_from_how_they_are_computed(work, expected):
    assert expected == attrs.astuple(prefill_of([2, 3, 7], work))


@pytest.mark.parametrize("work", PromptWork)
def test_no_prompts_are_no_work(work):
    assert prefill_of([], work) == Prefill(0, 0, 0)


def test_a_prompt_that_is_fed_takes_a_rows_share_of_full_steps():
    costs = costs_of(steps=[(4, 8.0)], token_s=0.5)

    assert Prefill(6, 0, 3).seconds(costs, max_rows=4) == 6 * 0.5 + 3 * 2.0


# -------------------------------------------------------------------------- of stops


def test_a_stop_costs_a_step_and_the_survivors_tokens():
    costs = costs_of(steps=[(4, 8.0)], token_s=0.5)

    told = restart_s([20, 30], [7], work=PromptWork.PACKED, costs=costs, max_rows=4)

    assert told == 8.0 + 50 * 0.5


def test_a_stop_costs_the_padding_that_survivors_make():
    costs = costs_of(steps=[(4, 8.0)], token_s=0.5)

    told = restart_s([20], [7, 9], work=PromptWork.PADDED, costs=costs, max_rows=4)

    assert told == 8.0 + (3 * 20 - 2 * 9) * 0.5


def test_a_stop_costs_the_steps_in_which_survivors_are_fed():
    costs = costs_of(steps=[(1, 2.0), (2, 3.0), (4, 8.0)], token_s=0.5)

    told = restart_s([20, 30], [5], work=PromptWork.STEPWISE, costs=costs, max_rows=4)

    assert told == 8.0 + (3 * 5 - 5) * 0.5 + (55 - 15) * 3.0 / 2


def test_survivors_that_shorten_what_is_computed_at_once_earn_nothing_by_it():
    """Two prompts of 90 at once cost more than all three as far as the shortest."""
    costs = costs_of(steps=[(1, 2.0), (4, 8.0)], token_s=0.5)

    told = restart_s([1], [90, 90], work=PromptWork.STEPWISE, costs=costs, max_rows=4)

    assert told == 8.0 + 2 * 89 * 2.0


def test_survivors_that_shorten_what_is_fed_earn_nothing_by_it():
    costs = costs_of(steps=[(1, 2.0), (4, 8.0)], token_s=0.5)

    told = restart_s([7], [7, 7], work=PromptWork.STEPWISE, costs=costs, max_rows=4)

    assert told == 8.0 + 7 * 0.5


@pytest.mark.parametrize(
    ("live", "seconds", "wasted"), [(4, 8.0, 0.0), (1, 8.0, 6.0), (1, 1.5, 0.0)]
)
def test_a_step_wastes_what_its_tokens_would_not_have_taken(live, seconds, wasted):
    costs = costs_of(steps=[(4, 8.0)])

    assert wasted == step_waste_s(live, seconds=seconds, costs=costs, max_rows=4)


WORTH = RunProgress(
    live_rows=1,
    longest_left=100,
    waste_s=10.0,
    waited_s=0.0,
    patience_s=50.0,
    restart_s=10.0,
)
"""It has wasted as much as a stop costs, and goes on for long."""


def says(progress: RunProgress = WORTH, **changes) -> bool:
    costs = costs_of(steps=[(1, 1.0), (4, 2.0)])  # a lonely row wastes half a second
    return pays_to_stop(attrs.evolve(progress, **changes), costs=costs, max_rows=4)


def test_a_run_that_wasted_what_a_stop_costs_is_stopped():
    assert says()
    assert not says(waste_s=9.9)


def test_a_run_is_not_stopped_before_anything_was_measured():
    assert not says(restart_s=0.0, waste_s=5.0, waited_s=100.0)
    assert says(restart_s=0.5, waste_s=5.0)


def test_a_run_that_ends_by_itself_soon_is_not_stopped():
    assert not says(longest_left=10, waited_s=100.0)
    assert says(longest_left=11, waited_s=100.0)


def test_how_soon_a_run_ends_depends_on_what_its_steps_take():
    assert not says(live_rows=4, longest_left=5, waited_s=100.0)
    assert says(live_rows=4, longest_left=6, waited_s=100.0)


def test_whose_patience_is_over_waits_no_longer():
    assert says(waited_s=50.0, waste_s=0.0)
    assert not says(waited_s=49.9, waste_s=0.0)


def test_a_run_that_can_waste_no_more_than_a_stop_costs_is_not_stopped():
    assert not says(longest_left=19, waste_s=50.0)
    assert says(longest_left=20, waste_s=50.0)


# ------------------------------------------------------------- of runs without a stop


def best(candidates, **options) -> int:
    given = {
        "lengths": [10, 10],
        "left": [4, 40],
        "work": PromptWork.PACKED,
        "costs": costs_of(steps=[(1, 1.0), (2, 1.0)], token_s=0.1),
        "max_rows": 2,
    }
    return best_run_length(candidates, **{**given, **options})


def test_a_run_ends_where_the_most_tokens_come_in_a_second():
    """8 tokens in 2 + 4 s and 2.4 s for the survivor; or 44 in 2 + 40 s."""
    assert best([4, 40]) == 40


def test_a_rest_as_short_as_a_step_is_never_left():
    """Not even where to compute the survivor's tokens again takes no time."""
    for token_s in (0.0, 0.1):
        costs = costs_of(steps=[(1, 1.0), (2, 1.0)], token_s=token_s)
        assert best([4, 6], left=[4, 6], costs=costs) == 6


def test_a_long_rest_is_left_to_the_next_run():
    costs = costs_of(steps=[(1, 1.0), (8, 1.0)], token_s=1e-6)
    left = [4] * 7 + [100]

    assert best([4, 100], left=left, lengths=[5] * 8, costs=costs, max_rows=8) == 4


def test_where_survivors_are_dear_a_run_goes_on_to_its_end():
    costs = costs_of(steps=[(1, 1.0), (8, 1.0)], token_s=1.0)
    left = [4] * 7 + [100]

    assert best([4, 100], left=left, lengths=[5] * 8, costs=costs, max_rows=8) == 100


def test_of_ends_that_are_as_good_the_last_is_taken():
    assert best([3, 9, 6], costs=Costs(), left=[9, 9]) == 9


def test_the_prompts_count_in_what_a_run_gives_a_second():
    """Steps alone would say 2; what the prompts took is spread over more tokens."""
    costs = costs_of(steps=[(1, 1.0), (2, 1.1)], token_s=0.3)

    assert best([2, 12], left=[2, 12], lengths=[50, 50], costs=costs) == 12
