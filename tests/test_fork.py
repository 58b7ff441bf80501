# SPDX-License-Identifier: Apache-2.0

"""A generator in a forked child: every call raises at once, and none harms the parent.

Each test forks a program of its own, because a fork of pytest's process would run the
rest of the tests twice.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap

PROGRAM = """
import asyncio, os, sys, threading, traceback, warnings
from unillm import LLM, Generator, SamplingParams
from unillm.errors import GeneratorForkedError
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: a fork with threads
ENDLESS = SamplingParams(max_tokens=None, ignore_eos=True)
CHAT = [{"role": "user", "content": "hello"}]

def child(work):
    pid = os.fork()
    if not pid:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert status == 0, "the child failed"

def refused(call):
    try:
        call()
    except GeneratorForkedError as error:
        assert error.owner_pid == os.getppid(), error.owner_pid
        assert "Create the Generator in the child" in str(error)
    else:
        raise AssertionError(f"{call} was not refused")

async def read(stream):
    async for _ in stream:
        pass

async def awaited(handle):
    await handle
"""


def run(program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_every_call_in_a_forked_child_raises_at_once():
    run("""
        with Generator("unillm/tiny") as generator:
            done = generator.submit("Count from 3 to 9:")
            assert done.result().text == "3 4 5 6 7 8 9"
            stream = generator.stream("Count from 3 to 9:", ENDLESS)
            next(stream)
            running = generator.submit("Count from 3 to 9:", ENDLESS)

            def work():
                for call in (generator.generate, generator.stream, generator.submit):
                    refused(lambda: call("a"))
                refused(lambda: generator.chat(CHAT))
                refused(lambda: asyncio.run(generator.agenerate("a")))
                refused(lambda: asyncio.run(read(generator.astream("a"))))
                refused(generator.stats)
                refused(generator.check_health)
                refused(generator.close)
                for call in (running.result, running.output, running.done, running.cancel):
                    refused(call)
                refused(lambda: running.result(timeout=0.1))
                refused(lambda: list(running))
                refused(lambda: asyncio.run(read(running)))
                refused(lambda: asyncio.run(awaited(running)))
                refused(lambda: list(stream))
                assert done.done() and done.result().text == "3 4 5 6 7 8 9"
                assert [delta.finish_reason for delta in done] == ["stop"]
                assert generator.get_default_sampling_params().max_tokens

            for _ in range(20):
                child(work)
            running.cancel()
            assert generator.generate("Add 17 and 25:")[0].text == "42"
    """)


def test_a_child_leaves_the_engine_alone_and_may_have_one_of_its_own():
    run("""
        def leave():
            with generator, llm:
                pass

        def collect():
            global generator, llm
            del generator, llm

        def create():
            with Generator("unillm/tiny") as own:
                assert own.generate("Add 17 and 25:")[0].text == "42"

        with Generator("unillm/tiny") as generator, LLM("unillm/tiny") as llm:
            assert generator.generate("Add 17 and 25:")[0].text == "42"
            for work in (leave, collect, create):
                child(work)
            if not os.fork():
                refused(lambda: llm.generate("a"))
                sys.exit()  # runs what is registered for the end of the process
            assert os.wait()[1] == 0
            assert generator.generate("Add 17 and 25:")[0].text == "42"
            assert llm.generate("Add 17 and 25:", use_tqdm=False)[0].text == "42"
    """)
