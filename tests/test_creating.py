# SPDX-License-Identifier: Apache-2.0

"""`Generator.acreate`: the event loop goes on while a generator is loaded."""

from __future__ import annotations

import asyncio
import inspect
import threading

import pytest

from unillm import Generator
from unillm.errors import ConfigError, UnknownArgumentError
from unillm.phases import listening
from unillm.runtime.arguments import GeneratorOptions
from unillm.testing.backends import ScriptedBackend, plugged
from unillm.testing.scripted import ScriptedEngine


class SlowEngine(ScriptedEngine):
    """An engine that is closed in sight of the test."""

    closed = threading.Event()

    def close(self):
        self.closed.set()


@pytest.fixture
def loading():
    """Let the test say when the engine may be loaded."""
    may_load, started = threading.Event(), threading.Event()
    SlowEngine.closed.clear()

    def make_engine(config):
        started.set()
        assert may_load.wait(20)
        return SlowEngine(lambda request, n: 65, max_model_len=64, vocab_size=512)

    with plugged(ScriptedBackend(make_engine, name="slow")):
        yield started, may_load


def create(**options):
    return Generator.acreate("unillm/tiny", backend="slow", **options)


def test_the_loop_goes_on_while_the_engine_is_loaded(loading):
    started, may_load = loading

    async def run():
        task = asyncio.create_task(create(max_model_len=32))
        await asyncio.to_thread(started.wait, 20)  # needs a loop that goes on
        may_load.set()
        with await task as generator:
            return generator.config.max_model_len

    assert asyncio.run(run()) == 32


def test_a_cancelled_task_leaves_no_engine(loading):
    started, may_load = loading

    async def run():
        task = asyncio.create_task(create())
        await asyncio.to_thread(started.wait, 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert not SlowEngine.closed.is_set()
    may_load.set()

    assert SlowEngine.closed.wait(20)


def test_the_callers_context_hears_the_phases(loading):
    loading[1].set()
    heard = []

    async def run():
        with listening(lambda status: heard.append(status.name)):
            generator = await create()
        generator.close()

    asyncio.run(run())

    assert "reading the tokenizer" in heard


def test_errors_are_those_of_the_class():
    with pytest.raises(ConfigError, match="max_num_seqs"):
        asyncio.run(create(max_num_seqs=0))
    with pytest.raises(UnknownArgumentError, match="Did you mean 'max_num_seqs'"):
        asyncio.run(create(max_num_seq=1))


def test_options_have_the_types_of_the_class():
    parameters = dict(inspect.signature(Generator).parameters)
    del parameters["model"]

    types = {name: each.annotation for name, each in parameters.items()}
    named = {
        name: getattr(kind, "__forward_arg__", kind)
        for name, kind in GeneratorOptions.__annotations__.items()
    }
    assert named == types
