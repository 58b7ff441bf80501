# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json

import attrs
import pytest

from unillm.artifacts.key import BuildSpec, Difference
from unillm.artifacts.records import from_json, to_json
from unillm.errors import ConfigError

OTHER = {
    "model_files": {"config.json": "0" * 64},
    "backend": "other",
    "backend_version": "0.2",
    "engine_version": "2.1",
    "device": "sm_90",
    "dtype": "float16",
    "quantization": "int8",
    "tensor_parallel_size": 2,
    "pipeline_parallel_size": 2,
    "flags": {"fast": True},
    "max_batch_size": 9,
    "max_input_len": 9,
    "max_seq_len": 513,
    "max_num_tokens": 9,
}
"""Another value for every field that is not a label."""

LABELS = {
    "model": "other/name",
    "model_path": "/elsewhere",
    "python": "/opt/converter/bin/python",
    "remedy": "pip install an-engine",
}


LIMITS = ["max_batch_size", "max_input_len", "max_num_tokens", "max_seq_len"]


def test_every_field_has_another_value_in_these_tests(spec):
    assert attrs.fields_dict(BuildSpec).keys() == OTHER.keys() | LABELS.keys()
    assert sorted(spec.limits) == LIMITS


@pytest.mark.parametrize("name", OTHER)
def test_a_field_that_changes_the_result_changes_the_key(spec, name):
    assert attrs.evolve(spec, **{name: OTHER[name]}).key != spec.key


@pytest.mark.parametrize("name", LABELS)
def test_a_label_does_not_change_the_key(spec, name):
    assert attrs.evolve(spec, **{name: LABELS[name]}).key == spec.key


def test_the_key_does_not_depend_on_the_order_of_mappings(spec):
    one = attrs.evolve(spec, flags={"a": 1, "b": 2})
    other = attrs.evolve(spec, flags={"b": 2, "a": 1})

    assert one.key == other.key


def test_a_spec_survives_json(spec):
    spec = attrs.evolve(spec, flags={"a": None, "b": 0.5, "c": True})

    again = from_json(json.loads(json.dumps(to_json(spec))), BuildSpec)

    assert again == spec
    assert again.key == spec.key


def test_the_key_of_a_spec_stays_the_same_from_version_to_version():
    spec = BuildSpec(
        model="some/model",
        model_path="/x/y",
        model_files={"b": "1" * 64, "a": "0" * 64},
        backend="s",
        backend_version="1",
        engine_version="2.0",
        device="any",
        dtype="float32",
        flags={"z": 1, "a": None, "f": 0.5, "t": True, "s": "x", "nan": 1e300},
        max_seq_len=512,
    )

    assert spec.key == "e878c7d2b7780e79e30c592c15f0b2b0"


@pytest.mark.parametrize("value", [0, -1, True, 1.5, "8"])
def test_an_impossible_limit_is_refused(spec, value):
    with pytest.raises(ConfigError, match="max_seq_len must be an integer ≥ 1"):
        attrs.evolve(spec, max_seq_len=value)


@pytest.mark.parametrize(
    ("built", "asked", "covered"),
    [
        (512, 512, True),
        (1024, 512, True),
        (512, 513, False),
        (None, 512, True),
        (None, None, True),
        (512, None, False),
    ],
)
@pytest.mark.parametrize("name", LIMITS)
def test_a_larger_limit_covers_a_smaller_one(spec, name, built, asked, covered):
    large = attrs.evolve(spec, **{name: built})

    assert large.covers(attrs.evolve(spec, **{name: asked})) is covered


@pytest.mark.parametrize("name", sorted(OTHER.keys() - LIMITS))
def test_nothing_covers_another_value_of_an_exact_field(spec, name):
    assert not spec.covers(attrs.evolve(spec, **{name: OTHER[name]}))


def test_excess_is_the_product_over_the_limits(spec):
    large = attrs.evolve(spec, max_batch_size=16, max_seq_len=1024)

    assert spec.excess(spec) == 1
    assert large.excess(spec) == 4
    assert attrs.evolve(spec, max_seq_len=None).excess(spec) == float("inf")


def test_differences_name_each_value(spec):
    other = attrs.evolve(
        spec,
        max_seq_len=1024,
        flags={"fast": True},
        model_files={**spec.model_files, "config.json": "0" * 64},
        model="other/name",
    )

    found = spec.differences(other)

    assert found[1:] == [
        Difference("flags.fast", None, True),
        Difference("max_seq_len", 512, 1024),
    ]
    assert [str(difference) for difference in found] == [
        "config.json has other content",
        "flags.fast none → True",
        "max_seq_len 512 → 1024",
    ]


def test_an_unknown_field_is_not_a_difference(spec):
    elsewhere = attrs.evolve(spec, engine_version=None, device=None)

    assert elsewhere.unknown == ("engine_version", "device")
    assert spec.differences(elsewhere) == []
