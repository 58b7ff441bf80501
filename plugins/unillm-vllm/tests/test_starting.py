# SPDX-License-Identifier: Apache-2.0

"""Starts of an engine: their side effects, and the errors of failed ones.

Each test starts its own program, because vLLM keeps much state in the process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import pytest

from unillm import SamplingParams

PROMPTS = ["Count from 3 to 9:", "qwerty zxc %%"]

PRELUDE = f"""
import json, os, random, sys
import numpy as np
from unillm import Generator, SamplingParams
from unillm.errors import UnillmError

TINY = {{"backend": "vllm", "dtype": "float32", "max_model_len": 512,
        "enforce_eager": True,
        "backend_options": {{"kv_cache_memory_bytes": 64 << 20}}}}
GREEDY = SamplingParams(temperature=0, max_tokens=40)
PROMPTS = {PROMPTS!r}
"""


def run(body: str) -> object:
    """Run a program, and return its last line, decoded from JSON."""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(body)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


STARTS_THAT_FAIL = {
    "quantization": (
        {"quantization": "awq"},
        "ConfigError",
        "config file for awq",
    ),
    "places": (
        {"tensor_parallel_size": 2},
        "ConfigError",
        "with tensor_parallel_size=2 here: AssertionError: Not enough allowed",
    ),
    "memory": (
        {"backend_options": {"kv_cache_memory_bytes": 1 << 19}},
        "EngineOutOfMemoryError",
        "create the Generator with max_model_len=",
    ),
}
"""Cause to the options, the error type, and a part of its message."""


@pytest.fixture(scope="module")
def failures():
    """Return the errors of all failed starts, made in one program."""
    asked = {name: options for name, (options, *_) in STARTS_THAT_FAIL.items()}
    return run(
        f"""
        failures = {{}}
        for name, options in {asked!r}.items():
            try:
                Generator("unillm/tiny", **{{**TINY, **options}})
            except UnillmError as error:
                failures[name] = [type(error).__name__, str(error)]
        print(json.dumps(failures))
        """
    )


@pytest.mark.parametrize("what", STARTS_THAT_FAIL)
def test_a_failed_start_gives_the_reason_and_a_remedy(failures, what):
    _, kind, says = STARTS_THAT_FAIL[what]
    found, text = failures[what]

    assert found == kind
    assert says in text


def test_speculation_changes_no_greedy_token_and_refuses_two_fields(generator):
    with_it, refused = run(
        """
        speculation = {"method": "ngram", "num_speculative_tokens": 3,
                       "prompt_lookup_max": 3}
        refused = {}
        with Generator("unillm/tiny", **TINY, speculative_config=speculation) as g:
            texts = [output.text for output in g.generate(PROMPTS, GREEDY)]
            for field in ({"min_p": 0.1}, {"logit_bias": {3: 1.0}}):
                try:
                    g.generate("a", SamplingParams(**field))
                except UnillmError as error:
                    refused[next(iter(field))] = str(error)
        print(json.dumps([texts, refused]))
        """
    )
    greedy = SamplingParams(temperature=0, max_tokens=40)

    without = [output.text for output in generator.generate(PROMPTS, greedy)]
    assert without == with_it
    assert refused.keys() == {"min_p", "logit_bias"}
    assert all("speculative decoding" in text for text in refused.values())


def test_a_start_has_no_side_effects_on_the_caller():
    """Variables, random numbers, output and, after closing, torch's threads."""
    variables, drawn, printed, threads = run(
        """
        import contextlib, io
        import torch
        os.environ.pop("OMP_NUM_THREADS", None)
        os.environ["VLLM_LOGGING_LEVEL"] = "CRITICAL"
        threads = torch.set_num_threads, torch.get_num_threads()
        before = dict(os.environ)
        random.seed(1), np.random.seed(1)
        expected = [random.random(), float(np.random.rand())]
        random.seed(1), np.random.seed(1)
        out = io.StringIO()
        with contextlib.redirect_stdout(out), Generator("unillm/tiny", **TINY) as g:
            drawn = [random.random(), float(np.random.rand())]
            g.generate(PROMPTS, GREEDY)
        names = ["OMP_NUM_THREADS", "LD_PRELOAD", "VLLM_LOGGING_LEVEL",
                 "VLLM_LOGGING_STREAM", "VLLM_ENABLE_V1_MULTIPROCESSING",
                 "VLLM_NO_USAGE_STATS", "VLLM_PLUGINS", "UNILLM_VLLM_OWNER"]
        same = [before.get(n) == os.environ.get(n) for n in names]
        left = threads == (torch.set_num_threads, torch.get_num_threads())
        print(json.dumps([all(same), drawn == expected, out.getvalue(), left]))
        """
    )

    assert variables
    assert drawn
    assert printed == ""
    assert threads


def test_two_engines_of_one_process_take_turns_and_outlive_each_other():
    texts = run(
        """
        import threading
        texts = []

        def ask(generator):
            texts.extend(o.text for o in generator.generate(PROMPTS[:1] * 8, GREEDY))

        with Generator("unillm/tiny", **TINY) as second:
            with Generator("unillm/tiny", **TINY) as first:
                threads = [threading.Thread(target=ask, args=(g,))
                           for g in (first, second, first, second)]
                for thread in threads: thread.start()
                for thread in threads: thread.join()
            ask(second)
        import llvmlite.binding  # of numba; vLLM fails on an object of it
        with Generator("unillm/tiny", **TINY) as third:
            ask(third)
        print(json.dumps(texts))
        """
    )

    assert texts == ["3 4 5 6 7 8 9"] * 48


def test_one_bad_prompt_fails_alone_unlike_in_vllm():
    alone, texts = run(
        """
        os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0",
                          VLLM_LOGGING_LEVEL="ERROR", VLLM_LOGGING_STREAM="ext://sys.stderr")
        from unillm.backend import find_model
        import vllm
        llm = vllm.LLM(str(find_model("unillm/tiny")), dtype="float32",
                       max_model_len=512, enforce_eager=True,
                       kv_cache_memory_bytes=64 << 20)
        too_long = {"prompt_token_ids": [10] * 600}
        prompts = [PROMPTS[0], too_long, PROMPTS[0]]
        try:
            llm.generate(prompts, vllm.SamplingParams(temperature=0), use_tqdm=False)
            alone = "served"
        except Exception as error:
            alone = type(error).__name__
        with Generator("unillm/tiny", **TINY) as g:
            outputs = g.generate(prompts, GREEDY, on_error="return")
        texts = [getattr(o, "text", type(o).__name__) for o in outputs]
        print(json.dumps([alone, texts]))
        """
    )

    assert alone == "VLLMValidationError"
    assert texts == ["3 4 5 6 7 8 9", "PromptTooLongError", "3 4 5 6 7 8 9"]
