# SPDX-License-Identifier: Apache-2.0

"""Streams submit at the call, and whatever ends them cancels their request."""

from __future__ import annotations

import asyncio
import gc
import inspect
from contextlib import aclosing, closing

import pytest
from idle import wait_until_idle

from unillm import Generator, SamplingParams
from unillm.errors import (
    InvalidPromptError,
    PromptTooLongError,
    QueueFullError,
)
from unillm.runtime.chat_prompts import CHAT_OPTIONS
from unillm.testing.backends import ScriptedBackend, plugged
from unillm.testing.scripted import ScriptedEngine

ENDLESS = SamplingParams(max_tokens=100_000, ignore_eos=True)
CHAT = [{"role": "user", "content": "a"}]
TEMPLATE = "{{ messages[0].content }}{{ word }}{{ tools | length if tools else '' }}"


def make_engine(config):
    return ScriptedEngine(
        lambda request, n: 65, max_model_len=100_000, vocab_size=512, max_num_seqs=2
    )


@pytest.fixture
def generator():
    with (
        plugged(ScriptedBackend(make_engine, name="endless")),
        Generator("unillm/tiny", backend="endless", max_queued_requests=4) as generator,
    ):
        yield generator


STREAMS = {
    "stream": lambda generator: generator.stream("a", ENDLESS),
    "astream": lambda generator: generator.astream("a", ENDLESS),
    "chat_stream": lambda generator: generator.chat_stream(CHAT, ENDLESS),
    "achat_stream": lambda generator: generator.achat_stream(CHAT, ENDLESS),
}


@pytest.mark.parametrize("name", ["stream", "astream"])
def test_a_refused_request_raises_at_the_call(generator, name):
    call = getattr(generator, name)

    with pytest.raises(InvalidPromptError):
        call("")
    with pytest.raises(PromptTooLongError):
        call([5] * 100_000)


@pytest.mark.parametrize("open_stream", STREAMS.values(), ids=STREAMS)
def test_a_full_queue_raises_at_the_call(generator, open_stream):
    kept = []

    with pytest.raises(QueueFullError):
        kept.extend(open_stream(generator) for _ in range(1000))

    assert len(kept) >= 4


@pytest.mark.parametrize("open_stream", STREAMS.values(), ids=STREAMS)
def test_a_stream_that_is_never_read_cancels_its_request(generator, open_stream):
    stream = open_stream(generator)
    assert generator.stats()["accepted"] == 1

    del stream
    gc.collect()

    wait_until_idle(generator)
    assert generator.stats()["cancelled"] == 1


def test_closing_a_stream_cancels_its_request(generator):
    with closing(generator.stream("a", ENDLESS)) as stream:
        assert next(stream).token_ids
    with generator.stream("a", ENDLESS) as again:
        assert next(again).token_ids

    wait_until_idle(generator)
    assert list(stream) == []
    assert generator.stats()["cancelled"] == 2


def test_closing_an_async_stream_cancels_its_request(generator):
    async def run(*, read):
        async with aclosing(generator.astream("a", ENDLESS)) as stream:
            if read:
                assert (await anext(stream)).token_ids
        wait_until_idle(generator)
        return [delta async for delta in stream]

    assert asyncio.run(run(read=True)) == []
    assert asyncio.run(run(read=False)) == []


def test_a_cancelled_reader_cancels_its_request(generator):
    async def read(stream):
        async for _ in stream:
            pass

    async def run():
        stream = generator.astream("a", ENDLESS)  # stays alive
        task = asyncio.create_task(read(stream))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        wait_until_idle(generator)
        return stream

    asyncio.run(run())


def test_an_error_thrown_into_an_async_stream_ends_it(generator):
    async def run():
        stream = generator.astream("a", ENDLESS)
        await anext(stream)
        with pytest.raises(OSError, match="gone"):
            await stream.athrow(OSError("the client is gone"))
        wait_until_idle(generator)

    asyncio.run(run())


def test_a_stream_may_be_opened_outside_of_the_loop(generator):
    stream = generator.astream("a", SamplingParams(max_tokens=3))

    async def read():
        return [delta async for delta in stream]

    assert sum(len(delta.token_ids) for delta in asyncio.run(read())) == 3


# ------------------------------------------------------------------- template arguments

SHORT = SamplingParams(max_tokens=2)


async def achat(generator, **template):
    [output] = await generator.achat(CHAT, SHORT, **template)
    return output.prompt


def prompts_of(generator, **template):
    """Return the prompt that each face renders."""
    [chat] = generator.chat(CHAT, SHORT, **template)
    message = {"messages": CHAT, **template}
    [generated] = generator.generate(message, SHORT)
    [iterated] = generator.generate_iter([message], SHORT)
    streams = (
        generator.chat_stream(CHAT, SHORT, **template),
        generator.achat_stream(CHAT, SHORT, **template),
        generator.stream(message, SHORT),
        generator.astream(message, SHORT),
    )
    return [
        chat.prompt,
        generated.prompt,
        iterated.prompt,
        generator.submit(message, SHORT).prompt,
        asyncio.run(achat(generator, **template)),
        *(stream.handle.prompt for stream in streams),
    ]


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        ({}, "a"),
        ({"chat_template_kwargs": {"word": " b"}}, "a b"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}] * 3}, "a3"),
    ],
)
def test_every_face_takes_the_arguments_of_the_template(generator, template, prompt):
    found = prompts_of(generator, chat_template=TEMPLATE, **template)

    assert found == [prompt] * 9


def test_every_face_continues_a_final_message(generator):
    template = "{% for m in messages %}<{{ m.content }}>{% endfor %}"
    options = {"continue_final_message": True, "add_generation_prompt": False}

    found = prompts_of(generator, chat_template=template, **options)

    assert found == ["<a"] * 9


@pytest.mark.parametrize("name", ["chat", "achat", "chat_stream", "achat_stream"])
def test_help_shows_each_argument_of_the_template(name):
    keywords = inspect.signature(getattr(Generator, name)).parameters

    assert CHAT_OPTIONS.keys() <= keywords.keys()
    defaults = {name: keywords[name].default for name in CHAT_OPTIONS}
    assert defaults == CHAT_OPTIONS
