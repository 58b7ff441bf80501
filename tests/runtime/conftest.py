# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from pathlib import Path

import pytest
from runtime.driving import Gate, Letters

from unillm import EngineConfig, SamplingParams
from unillm.engines.base import SAMPLING_FIELDS, Capabilities, EngineLimits
from unillm.runtime.driver import Driver
from unillm.runtime.requests import RequestMaker
from unillm.scheduling.slots import SlotScheduler
from unillm.text.eos import resolve_eos
from unillm.text.generation_config import ModelDefaults
from unillm.text.loading import ModelText, load_tokenizer


@pytest.fixture
def maker_for():
    """Return a function that makes a `RequestMaker` without an engine."""

    def maker_for(*, max_model_len=1000, **config):
        tokenizer = load_tokenizer(Letters())
        names = {"capabilities", "backend", "backends", "clock"} & config.keys()
        own = {name: config.pop(name) for name in names}
        every = Capabilities.native(*SAMPLING_FIELDS)
        own["capabilities"] = every.refined(own.get("capabilities", Capabilities()))
        text = ModelText(
            tokenizer=tokenizer,
            eos=resolve_eos(tokenizer),
            model_config={},
            defaults=ModelDefaults(params=SamplingParams(temperature=0.5)),
        )
        limits = EngineLimits(
            max_model_len=max_model_len, max_num_seqs=4, vocab_size=0x110000
        )
        config = EngineConfig(model="letters", path=Path(), **config)
        return RequestMaker(config, text, limits, **own)

    return maker_for


@pytest.fixture
def drive():
    """Return a function that makes drivers, which are closed after the test."""
    drivers = []

    def drive(engine, create=SlotScheduler, **options):
        driver = Driver(
            lambda: create(engine),
            **{
                "max_queued_requests": 100,
                "max_queued_tokens": 10_000,
                **options,
            },
        )
        drivers.append((driver, engine))
        return driver

    yield drive
    for driver, engine in drivers:
        if isinstance(engine, Gate):
            engine.permit()
        driver.close()


@pytest.fixture
def handle_for(maker_for):
    """Return a function that makes handles, numbered from 0 over all drivers."""
    maker = maker_for()

    def handle_for(*, prompt=(65, 66), timeout_s=None, **params):
        params = SamplingParams(**{"max_tokens": 50, "seed": 0, **params})
        return maker.make(prompt, params, timeout_s=timeout_s)

    return handle_for
