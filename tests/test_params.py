# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import copy
import math
import pickle
import re

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unillm import SamplingParams, SamplingParamsWarning, StructuredOutputs
from unillm.errors import InvalidParameterError, UnillmError, UnknownArgumentError
from unillm.params import UNAVAILABLE_FIELDS
from unillm.structured_outputs import UNAVAILABLE_CONSTRAINTS

# Defaults of vLLM 0.32, but for `max_tokens`; they are the same on every backend.
DEFAULTS = {
    "n": 1,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "seed": None,
    "stop": [],
    "stop_token_ids": [],
    "ignore_eos": False,
    "max_tokens": None,
    "min_tokens": 0,
    "logprobs": None,
    "prompt_logprobs": None,
    "logprob_token_ids": None,
    "flat_logprobs": False,
    "logit_bias": {},
    "allowed_token_ids": None,
    "bad_words": [],
    "structured_outputs": None,
    "detokenize": True,
    "spaces_between_special_tokens": True,
    "skip_special_tokens": True,
    "include_stop_str_in_output": False,
    "extra_args": None,
    "truncate_prompt_tokens": None,
}


def test_defaults_are_those_of_vllm_but_for_the_length():
    params = SamplingParams()

    assert {name: getattr(params, name) for name in DEFAULTS} == DEFAULTS


@pytest.mark.parametrize(
    "copied", [attrs.evolve, copy.copy, copy.deepcopy, SamplingParams.clone]
)
def test_copies_know_whether_a_length_was_given(copied):
    without, with_none = SamplingParams(), SamplingParams(max_tokens=None)

    assert not copied(without).sets_max_tokens
    assert copied(with_none).sets_max_tokens
    assert not pickle.loads(pickle.dumps(without)).sets_max_tokens
    assert without != with_none


def test_a_length_may_be_assigned():
    params = SamplingParams()

    params.max_tokens = None
    assert params.sets_max_tokens
    params.max_tokens = np.int64(5)
    assert (params.max_tokens, type(params.max_tokens)) == (5, int)


def test_the_representation_has_what_was_given():
    shown = repr(SamplingParams(temperature=0, max_tokens=None, stop="a"))

    assert shown == "SamplingParams(temperature=0.0, stop=['a'], max_tokens=None)"
    assert repr(SamplingParams()) == "SamplingParams()"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 0),
        ("n", 20_000),
        ("n", True),
        ("n", 1.5),
        ("presence_penalty", 2.1),
        ("frequency_penalty", -2.1),
        ("repetition_penalty", 0),
        ("repetition_penalty", math.inf),
        ("temperature", math.nan),
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", "0.5"),
        ("temperature", 10**400),
        ("temperature", None),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_p", math.nan),
        ("top_k", -2),
        ("top_k", None),
        ("min_p", 1.5),
        ("seed", 2**63),
        ("seed", 0.5),
        ("stop", ""),
        ("stop", ["ok", ""]),
        ("stop", [3]),
        ("stop", 3),
        ("stop_token_ids", [-1]),
        ("stop_token_ids", ["a"]),
        ("stop_token_ids", "12"),
        ("stop_token_ids", 12),
        ("ignore_eos", 1),
        ("max_tokens", 0),
        ("max_tokens", 1.5),
        ("max_tokens", "4"),
        ("min_tokens", -1),
        ("logprobs", -2),
        ("prompt_logprobs", -2),
        ("logprob_token_ids", []),
        ("logprob_token_ids", ["5"]),
        ("flat_logprobs", 1),
        ("logit_bias", {-1: 1.0}),
        ("logit_bias", {"a": 1.0}),
        ("logit_bias", {1: "a"}),
        ("logit_bias", {1: math.nan}),
        ("logit_bias", {1: 10**400}),
        ("logit_bias", 3),
        ("allowed_token_ids", []),
        ("allowed_token_ids", [-1]),
        ("allowed_token_ids", "12"),
        ("bad_words", "word"),
        ("bad_words", [" "]),
        ("bad_words", ["\ud800"]),
        ("bad_words", [3]),
        ("detokenize", 1),
        ("spaces_between_special_tokens", None),
        ("skip_special_tokens", None),
        ("include_stop_str_in_output", "yes"),
        ("extra_args", [5]),
        ("extra_args", {5: 1}),
        ("truncate_prompt_tokens", 0),
        ("truncate_prompt_tokens", -2),
    ],
)
def test_an_impossible_value_is_refused_with_field_and_value(field, value):
    with pytest.raises(InvalidParameterError, match=field) as caught:
        SamplingParams(**{field: value})

    assert caught.value.parameter == field
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"n": 2, "temperature": 0}, "temperature=0"),
        ({"min_tokens": 5, "max_tokens": 4}, "max_tokens=4"),
        ({"logprobs": 3, "logprob_token_ids": [5, 7]}, "2 logprob_token_ids"),
        ({"stop": "x", "detokenize": False}, "detokenize=False"),
    ],
)
def test_fields_that_contradict_each_other_are_both_named(fields, named):
    with pytest.raises(InvalidParameterError, match=named) as caught:
        SamplingParams(**fields)

    assert caught.value.parameter in fields


def test_an_unknown_field_suggests_the_nearest():
    with pytest.raises(
        UnknownArgumentError, match="Did you mean 'temperature'"
    ) as caught:
        SamplingParams(temprature=0.5)

    assert isinstance(caught.value, TypeError)


def test_values_are_normalised():
    params = SamplingParams(
        stop="a", stop_token_ids=[3, 3, np.int64(4)], seed=-1, max_tokens=np.int32(7)
    )

    assert (
        params.stop,
        params.stop_token_ids,
        params.seed,
        params.max_tokens,
    ) == (["a"], [3, 4], None, 7)


def test_biases_are_cut():
    params = SamplingParams(logit_bias={7: 250, np.int64(3): -math.inf, 5: 1})

    assert params.logit_bias == {7: 100.0, 3: -100.0, 5: 1.0}
    assert params == attrs.evolve(params)


def test_an_error_of_the_callers_iterator_passes_on():
    def ids():
        yield 3
        raise ValueError("the disk is full")

    with pytest.raises(ValueError, match="the disk is full"):
        SamplingParams(stop_token_ids=ids())


def test_the_callers_list_is_not_kept():
    stop = ["a"]
    params = SamplingParams(stop=stop)

    stop.append("b")

    assert params.stop == ["a"]


def test_lists_may_be_appended_to_and_are_checked_in_a_copy():
    params, other = SamplingParams(), SamplingParams()

    params.stop.append("x")
    params.stop_token_ids += [3, 3]
    params.bad_words.append("word")
    params.logit_bias[5] = 250

    copy = params.clone()
    assert copy == SamplingParams(
        stop="x", stop_token_ids=[3], bad_words=["word"], logit_bias={5: 100.0}
    )
    assert other == SamplingParams()
    params.stop.append(7)
    with pytest.raises(InvalidParameterError, match="stop must be"):
        params.clone()
    assert copy.stop == ["x"]


@pytest.mark.parametrize("field", ["logprobs", "prompt_logprobs"])
def test_logprobs_of_true_is_one_and_of_false_is_refused(field):
    assert getattr(SamplingParams(**{field: True}), field) == 1
    with pytest.raises(InvalidParameterError, match=f"{field} must be an integer"):
        SamplingParams(**{field: False})


def test_none_means_not_given_in_from_optional():
    given = SamplingParams.from_optional(
        n=None, temperature=None, max_tokens=None, stop=None, logit_bias={"5": 1}
    )

    assert given == SamplingParams(max_tokens=None, logit_bias={5: 1.0})
    with pytest.raises(InvalidParameterError, match="logit_bias must be"):
        SamplingParams.from_optional(logit_bias={"a": 1})


def test_the_names_of_the_fields_are_where_a_msgspec_struct_has_them():
    assert SamplingParams.__struct_fields__ == tuple(DEFAULTS)


@pytest.mark.parametrize(
    ("name", "harmless", "harmful"),
    [
        ("best_of", 1, 3),
        ("logits_processors", [], [print]),
        ("output_kind", 2, 7),
        ("prompt_logprob_token_ids", None, np.ones((1, 1))),
        ("skip_clone", True, "yes"),
        ("use_beam_search", False, True),
    ],
)
def test_another_librarys_field_is_taken_where_it_changes_nothing(
    name, harmless, harmful
):
    assert SamplingParams(**{name: harmless}) == SamplingParams()
    with pytest.raises(UnknownArgumentError, match=re.escape(UNAVAILABLE_FIELDS[name])):
        SamplingParams(**{name: harmful})


def test_vllms_defaults_of_a_constraint_are_taken():
    taken = StructuredOutputs(
        regex="a",
        json_object=None,
        structural_tag=None,
        disable_additional_properties=False,
    )

    assert taken == StructuredOutputs(regex="a")


def test_a_temperature_too_small_to_divide_by_is_raised_with_a_warning():
    with pytest.warns(SamplingParamsWarning, match="raised to 0.01") as warned:
        params = SamplingParams(temperature=0.001)

    assert params.temperature == 0.01
    assert [warning.filename for warning in warned] == [__file__]


@pytest.mark.parametrize(
    ("temperature", "greedy"), [(0, True), (1e-6, True), (1, False)]
)
def test_a_temperature_of_zero_is_greedy(temperature, greedy):
    assert SamplingParams(temperature=temperature).greedy is greedy


def test_an_assigned_value_is_checked_and_normalised():
    params = SamplingParams()

    params.stop = ["x", "x"]
    with pytest.raises(InvalidParameterError, match="max_tokens must be an integer"):
        params.max_tokens = 0

    assert params == SamplingParams(stop="x")


def test_a_field_that_does_not_exist_cannot_be_assigned():
    with pytest.raises(AttributeError, match="max_token"):
        SamplingParams().max_token = 5


def test_structured_outputs_are_frozen():
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        StructuredOutputs(regex="a").regex = "b"


@pytest.mark.parametrize("name", sorted(UNAVAILABLE_FIELDS))
def test_an_unavailable_field_is_refused_with_the_reason(name):
    with pytest.raises(
        TypeError, match=re.escape(f"{name!r}: {UNAVAILABLE_FIELDS[name]}. It")
    ):
        SamplingParams(**{name: "something"})


@pytest.mark.parametrize("name", sorted(UNAVAILABLE_CONSTRAINTS))
def test_an_unavailable_constraint_is_refused_with_the_reason(name):
    reason = re.escape(UNAVAILABLE_CONSTRAINTS[name])

    with pytest.raises(TypeError, match=reason):
        StructuredOutputs(**{name: "x"})


def test_params_survive_pickling_and_are_equal_by_value():
    params = SamplingParams(seed=3, stop=["x"])

    assert params == pickle.loads(pickle.dumps(params))
    assert type(params).__module__ == "unillm"


@pytest.mark.property
@given(
    st.dictionaries(
        st.sampled_from(sorted(DEFAULTS)),
        st.none()
        | st.booleans()
        | st.integers(-(2**70), 2**70)
        | st.floats()
        | st.text(max_size=5)
        | st.lists(st.integers(-5, 2**40) | st.text(max_size=3), max_size=4),
        max_size=4,
    )
)
@pytest.mark.filterwarnings("ignore::unillm.SamplingParamsWarning")
def test_any_values_make_params_or_a_named_error(fields):
    try:
        params = SamplingParams(**fields)
    except UnillmError as error:
        assert str(error)
    else:
        assert params == pickle.loads(pickle.dumps(params))
        assert 0 <= params.temperature <= 2
