# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest

from unillm.scheduling.policy import Costs


def test_the_first_call_of_an_engine_says_nothing_of_its_prompts():
    costs = Costs()

    costs.note_prefill(15, rows=1, seconds=0.4)
    costs.note_step(1, 0.01)

    assert 0.0 == costs.prefill_token_s

    costs.note_prefill(100, rows=1, seconds=0.02)

    assert pytest.approx(0.0001) == costs.prefill_token_s


def test_prompts_take_what_is_beyond_a_step():
    costs = Costs()
    costs.note_prefill(3, rows=2, seconds=1.0)
    costs.note_step(2, 0.02)

    costs.note_prefill(6, rows=2, seconds=0.02)

    assert 0.0 == costs.prefill_token_s


def test_a_prompt_token_takes_no_more_than_a_step_of_one_row():
    costs = Costs()
    costs.note_prefill(4, rows=1, seconds=1.0)
    costs.note_step(1, 0.01)

    costs.note_prefill(4, rows=1, seconds=5.0)

    assert 0.01 == costs.prefill_token_s


def test_what_the_first_run_told_as_a_whole_is_replaced_by_the_next():
    costs = Costs()
    costs.note_whole(10, steps=10, rows=4, seconds=50.0)
    assert pytest.approx(5.0) == costs.step_s(4)

    costs.note_whole(10, steps=10, rows=4, seconds=0.1)

    assert pytest.approx(0.01) == costs.step_s(4)


def test_prompts_and_steps_told_of_together_are_told_apart():
    costs = Costs()
    costs.note_whole(5, steps=5, rows=4, seconds=9.0)
    for tokens, steps in 20 * ((100, 10), (10, 30), (50, 20)):
        seconds = tokens * 0.001 + steps * 0.02
        costs.note_whole(tokens, steps=steps, rows=4, seconds=seconds)

    assert pytest.approx(0.001, rel=0.2) == costs.prefill_token_s
    assert pytest.approx(0.02, rel=0.2) == costs.step_s(4)


def test_a_step_between_two_counts_of_rows_is_interpolated():
    costs = Costs()
    costs.note_step(2, 0.02)
    costs.note_step(6, 0.04)

    assert pytest.approx(0.03) == costs.step_s(4)
    assert [0.02, 0.04] == [costs.step_s(1), costs.step_s(8)]
