# SPDX-License-Identifier: Apache-2.0

"""Rules with more alternatives than vLLM's llguidance follows are refused."""

from __future__ import annotations

import pytest
from unillm_vllm._guidance import longest_rule

from unillm.backend import StructuredOutputs
from unillm.errors import InvalidParameterError


@pytest.mark.parametrize(
    ("grammar", "expected"),
    [
        ('start: "a"', 1),
        ('start: "a|b" | /c|d/ | word\nword: "x" | "y"', 3),
        ('start: word\n?word: "a"\n  | "b"\n  | "c"\n  | "\\"|"', 4),
        ('start: WORD "x"\nWORD: "a" | "b" | "c"', 1),
        ('%llguidance {}\nstart: "a" | "b"', 2),
    ],
)
def test_the_alternatives_of_the_longest_rule(grammar, expected):
    assert longest_rule(grammar) == expected


def test_a_rule_that_vllm_cannot_follow_is_refused_and_a_terminal_is_not():
    from unillm_vllm._params import structured_outputs

    words = " | ".join(f'"w{number}"' for number in range(2001))

    with pytest.raises(InvalidParameterError, match=r"2001 alternatives.*most 2000"):
        structured_outputs(
            StructuredOutputs(grammar=f"start: {words}"), spells_exactly=True
        )
    for wanted in (
        StructuredOutputs(grammar=f"start: W\nW: {words}"),
        StructuredOutputs(choice=[f"w{number}" for number in range(2001)]),
    ):
        assert structured_outputs(wanted, spells_exactly=True).grammar
