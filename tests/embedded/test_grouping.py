# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unillm.embedded.grouping import SHORT, group_by_width, width_for


@pytest.mark.property
@given(st.lists(st.integers(1, 3000), max_size=30))
def test_every_prompt_is_in_one_group_and_padding_is_small(lengths):
    groups = group_by_width(lengths)

    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    for group in groups:
        longest = max(lengths[i] for i in group)
        assert lengths[group[0]] == longest
        assert all(longest - lengths[i] <= max(SHORT, longest // 4) for i in group)


@pytest.mark.parametrize(
    ("lengths", "groups"),
    [
        ([], []),
        ([5], [[0]]),
        ([3, 9, 14], [[2, 1, 0]]),
        ([100, 1000, 80, 900], [[1, 3], [0, 2]]),
    ],
    ids=["none", "one", "all short", "two lengths"],
)
def test_similar_prompts_share_a_pass(lengths, groups):
    assert group_by_width(lengths) == groups


@pytest.mark.parametrize(
    ("length", "width"), [(1, 4), (4, 4), (5, 8), (95, 96), (97, 98), (98, 98)]
)
def test_widths_are_rounded_up_but_for_the_limit(length, width):
    assert width_for(length, 98) == width
