# SPDX-License-Identifier: Apache-2.0

"""Engine options: each value is checked once, and its source is known."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from unillm.config import ENGINE_OPTIONS, EngineConfig, Source
from unillm.errors import ConfigError


def config(**given):
    return EngineConfig.create(
        **{"backend": None, "model": "m", "path": Path()} | given
    )


def test_every_engine_option_is_a_field():
    assert {field.name for field in attrs.fields(EngineConfig)} >= ENGINE_OPTIONS


@pytest.mark.parametrize(
    ("name", "expected", "values"),
    [
        ("gpu_memory_utilization", "a number in (0, 1] or None", [0, 1.5, True, "0.9"]),
        ("step_timeout_s", "a number of seconds > 0", [0, -1, True, "5", float("nan")]),
        ("max_num_seqs", "an integer ≥ 1 or None", [0, True, "8", 1.0]),
        ("tensor_parallel_size", "an integer ≥ 1", [0, True, "8"]),
        ("max_logprobs", "an integer ≥ 0, or -1 for all", [-2, True, 1.0]),
        ("seed", "an integer", ["0", 0.5]),
        ("strict_length", "True or False", ["False", 1]),
        ("quantization", "a text or None", [8]),
        ("backend_options", "a mapping", [["a"]]),
        ("dtype", "one of auto, float32, bfloat16, float16", ["int3", 16]),
    ],
)
def test_an_invalid_value_is_refused_with_the_expected_kind(name, expected, values):
    for value in values:
        with pytest.raises(ConfigError) as caught:
            config(**{name: value})

        assert str(caught.value).startswith(f"{name} must be {expected}, got ")


@pytest.mark.parametrize(
    ("written", "dtype"), [("torch.float16", "float16"), ("half", "float16")]
)
def test_other_names_of_a_dtype_are_taken(written, dtype):
    assert config(dtype=written).dtype == dtype


def test_the_environment_chooses_when_the_code_does_not(monkeypatch):
    monkeypatch.setenv("UNILLM_BACKEND", "From-Environment")

    found, named = config(), config(backend="written")

    assert (found.backend, found.source_of("backend")) == (
        "from-environment",
        Source.ENVIRONMENT,
    )
    assert (named.backend, named.source_of("backend")) == ("written", Source.ARGUMENT)


def test_further_options_keep_the_others_and_their_sources():
    found = config(dtype="half", backend="b").with_options(max_loras=2, dtype=None)

    assert (found.dtype, found.max_loras) == ("float16", 2)
    assert [found.source_of(name) for name in ("dtype", "max_loras", "seed")] == [
        Source.ARGUMENT,
        Source.ARGUMENT,
        Source.DEFAULT,
    ]
