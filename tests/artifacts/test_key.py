# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json

import attrs
import pytest

from unillm.artifacts.key import BuildSpec, Difference, Role, _all_have_roles
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
"""Another value for every field that the key is made of."""

LABELS = {"model": "other/name", "model_path": "/elsewhere"}


def names(*roles):
    return {f.name for f in attrs.fields(BuildSpec) if f.metadata[Role] in roles}


def test_each_field_is_a_label_or_tried_below():
    assert names(Role.LABEL) == LABELS.keys()
    assert names(Role.EXACT, Role.COVERED) == OTHER.keys()


@pytest.mark.parametrize("name", OTHER)
def test_whatever_changes_the_result_changes_the_key(spec, name):
    assert attrs.evolve(spec, **{name: OTHER[name]}).key != spec.key


@pytest.mark.parametrize("name", LABELS)
def test_a_label_does_not_change_the_key(spec, name):
    assert attrs.evolve(spec, **{name: LABELS[name]}).key == spec.key


def test_the_key_does_not_depend_on_the_order_of_mappings(spec):
    one = attrs.evolve(spec, flags={"a": 1, "b": 2})
    other = attrs.evolve(spec, flags={"b": 2, "a": 1})

    assert one.key == other.key


def test_a_field_without_a_role_is_refused():
    with pytest.raises(TypeError, match=r"Careless\.forgotten has no Role"):

        @attrs.frozen(field_transformer=_all_have_roles)
        class Careless:
            forgotten: int


def test_a_spec_survives_json(spec):
    spec = attrs.evolve(spec, flags={"a": None, "b": 0.5, "c": True})

    again = BuildSpec.from_json(json.loads(json.dumps(spec.to_json())))

    assert again == spec
    assert again.key == spec.key


@pytest.mark.parametrize("change", [{"new_field": 1}, None], ids=["more", "less"])
def test_fields_of_another_version_are_refused(spec, change):
    content = {**spec.to_json(), **(change or {})}
    if change is None:
        del content["flags"]

    with pytest.raises(ValueError, match="another version"):
        BuildSpec.from_json(content)


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
@pytest.mark.parametrize("name", sorted(names(Role.COVERED)))
def test_a_larger_limit_covers_a_smaller_one(spec, name, built, asked, covered):
    large = attrs.evolve(spec, **{name: built})

    assert large.covers(attrs.evolve(spec, **{name: asked})) is covered


@pytest.mark.parametrize("name", sorted(names(Role.EXACT)))
def test_nothing_covers_another_value_of_an_exact_field(spec, name):
    assert not spec.covers(attrs.evolve(spec, **{name: OTHER[name]}))


def test_excess_is_how_many_times_larger_it_is(spec):
    large = attrs.evolve(spec, max_batch_size=16, max_seq_len=1024)

    assert spec.excess(spec) == 1
    assert large.excess(spec) == 4
    assert attrs.evolve(spec, max_seq_len=None).excess(spec) == float("inf")


def test_differences_name_each_number(spec):
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
        "config.json has another content",
        "flags.fast none → True",
        "max_seq_len 512 → 1024",
    ]


def test_what_is_unknown_here_is_not_a_difference(spec):
    elsewhere = attrs.evolve(spec, engine_version=None, device=None)

    assert elsewhere.unknown == ("engine_version", "device")
    assert spec.differences(elsewhere) == []
