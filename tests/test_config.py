# SPDX-License-Identifier: Apache-2.0

"""Engine options: checked once, and refused where a backend does not honour them."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

import attrs
import pytest

from unillm.config import ENGINE_OPTIONS, EngineConfig
from unillm.engines.backend import Availability, Backend
from unillm.errors import ConfigError
from unillm.resolve import option_refusal


class QuantisingBackend(Backend):
    name = "quantising"
    description = "for these tests"
    engine_options = frozenset({"quantization"})
    option_reasons = MappingProxyType({"enable_lora": "its engine has no adapters"})

    def availability(self):
        return Availability(available=True)

    def create_engine(self, config):
        raise NotImplementedError


def config(**given):
    return EngineConfig.create(backend=None, model="m", path=Path("m"), **given)


def test_every_engine_option_is_a_field():
    assert {field.name for field in attrs.fields(EngineConfig)} >= ENGINE_OPTIONS


def test_an_option_that_the_backend_honours_is_not_refused():
    refusal = option_refusal(QuantisingBackend(), config(quantization="awq"))

    assert refusal is None


def test_an_option_that_the_backend_does_not_honour_is_refused_with_its_reason():
    refusal = option_refusal(QuantisingBackend(), config(enable_lora=True))

    assert "enable_lora=True: its engine has no adapters" in refusal


@pytest.mark.parametrize("name", ["tensor_parallel_size", "enable_lora"])
def test_the_default_of_an_option_is_never_refused(name):
    given = {name: attrs.fields_dict(EngineConfig)[name].default}

    assert option_refusal(QuantisingBackend(), config(**given)) is None


@pytest.mark.parametrize("share", [0, 1.5, True, "0.9"])
def test_a_share_of_memory_is_a_number_up_to_one(share):
    with pytest.raises(ConfigError, match=r"gpu_memory_utilization must be a number"):
        config(gpu_memory_utilization=share)


@pytest.mark.parametrize("seconds", [0, -1, True, "5", float("nan")])
def test_a_timeout_of_steps_is_a_number_above_zero(seconds):
    with pytest.raises(ConfigError, match=r"step_timeout_s must be a number of sec"):
        config(step_timeout_s=seconds)
