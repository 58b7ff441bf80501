# SPDX-License-Identifier: Apache-2.0

"""Any value of an argument works, or is an error of unillm's own."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unillm import SamplingParams, run_batch
from unillm.errors import ConfigError, InvalidParameterError, UnillmError
from unillm.jobs.arguments import Arguments

HALF = "\ud800"
ODD_VALUES = st.one_of(
    st.sampled_from([None, True, 0, 1.5, float("nan"), "", HALF, "\0", b"a", object()]),
    st.sampled_from(
        [[], [HALF], {}, {1: 2}, {HALF: 1}, {"n": 10**400}, {"n": object()}]
    ),
    st.sampled_from([Path(HALF), SamplingParams(), "{{", "{% for %}", {"type": 5}]),
    st.dictionaries(st.sampled_from(["n", "seed", "stop", "x"]), st.integers()),
    st.text(max_size=5),
)


@pytest.mark.property
@pytest.mark.parametrize("name", list(Arguments.__annotations__))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=ODD_VALUES)
def test_an_argument_is_taken_or_refused(name, value):
    arguments = {"inputs": "in", "output": "out", "chat": True, name: value}
    try:
        found = Arguments(**arguments)
        found.bodies()
        assert found.path.name is not None
        assert all(isinstance(each, str) for each in found.patterns)
    except UnillmError as error:
        str(error).encode()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"params": {"temperatur": 1}}, ConfigError, "Did you mean 'temperature'"),
        ({"params": {"temperature": -1}}, InvalidParameterError, "temperature"),
        ({"params": {"top_logprobs": 2}}, InvalidParameterError, "logprobs: true"),
        ({"prompt_template": "{{"}, ConfigError, "not a Jinja template"),
        ({"system": "x"}, ConfigError, "system is for chats"),
        ({"columns": "a,b"}, ConfigError, "a list of names"),
        ({"max_num_seqs": 4}, ConfigError, "A worker takes no options"),
    ],
    ids=["name", "value", "pair", "template", "system", "columns", "worker"],
)
def test_an_impossible_argument_is_refused_at_once(
    scripted, tmp_path, arguments, error, message
):
    with pytest.raises(error, match=message):
        run_batch(tmp_path / "in", tmp_path / "out.jsonl", scripted(), **arguments)

    assert list(tmp_path.iterdir()) == []
