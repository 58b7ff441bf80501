# SPDX-License-Identifier: Apache-2.0

"""How an engine starts, what it leaves of its surroundings, and why it does not start.

A program of its own for each: vLLM keeps much of a start in the process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import pytest

PRELUDE = """
import json, os, random, sys
import numpy as np
from unillm import Generator, SamplingParams
from unillm.errors import UnillmError

TINY = {"backend": "vllm", "dtype": "float32", "max_model_len": 512,
        "enforce_eager": True, "backend_options": {"kv_cache_memory_bytes": 64 << 20}}
GREEDY = SamplingParams(temperature=0, max_tokens=40)
PROMPTS = ["Count from 3 to 9:", "qwerty zxc %%"]
"""


def run(body: str) -> object:
    """Run a program, and return what it printed last, which is JSON."""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(body)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert 0 == done.returncode, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def failure(options: str) -> tuple[str, str]:
    kind, text = run(
        f"""
        try:
            Generator("unillm/tiny", **{{**TINY, **{options}}})
        except UnillmError as error:
            print(json.dumps([type(error).__name__, str(error)]))
        """
    )
    return kind, text


@pytest.mark.parametrize(
    ("options", "kind", "says"),
    [
        ('{"quantization": "awq"}', "ConfigError", "config file for awq"),
        (
            '{"tensor_parallel_size": 2}',
            "ConfigError",
            "with tensor_parallel_size=2 here: AssertionError: Not enough allowed",
        ),
        (
            '{"backend_options": {"kv_cache_memory_bytes": 1 << 19}}',
            "EngineOutOfMemoryError",
            "create the Generator with max_model_len=",
        ),
    ],
    ids=["quantization", "places", "memory"],
)
def test_a_start_that_fails_says_why_and_what_helps(options, kind, says):
    found, text = failure(options)

    assert kind == found
    assert says in text


def test_speculation_changes_no_greedy_token_and_refuses_what_vllm_does():
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
    without = run(
        """
        with Generator("unillm/tiny", **TINY) as g:
            print(json.dumps([output.text for output in g.generate(PROMPTS, GREEDY)]))
        """
    )

    assert without == with_it
    assert {"min_p", "logit_bias"} == refused.keys()
    assert all("speculative decoding" in text for text in refused.values())


def test_a_start_leaves_the_caller_s_variables_random_numbers_and_output_alone():
    ours, kept, printed = run(
        """
        import contextlib, io
        os.environ["VLLM_LOGGING_LEVEL"] = "CRITICAL"
        before = dict(os.environ)
        random.seed(1), np.random.seed(1)
        expected = [random.random(), float(np.random.rand())]
        random.seed(1), np.random.seed(1)
        out = io.StringIO()
        with contextlib.redirect_stdout(out), Generator("unillm/tiny", **TINY):
            drawn = [random.random(), float(np.random.rand())]
        names = ["OMP_NUM_THREADS", "LD_PRELOAD", "VLLM_LOGGING_LEVEL",
                 "VLLM_LOGGING_STREAM", "VLLM_ENABLE_V1_MULTIPROCESSING",
                 "VLLM_NO_USAGE_STATS", "VLLM_PLUGINS", "UNILLM_VLLM_OWNER"]
        same = [before.get(n) == os.environ.get(n) for n in names]
        print(json.dumps([all(same), drawn == expected, out.getvalue()]))
        """
    )

    assert ours
    assert kept
    assert "" == printed


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
        with Generator("unillm/tiny", **TINY) as third:
            ask(third)
        print(json.dumps(texts))
        """
    )

    assert ["3 4 5 6 7 8 9"] * 48 == texts


def test_torch_s_threads_are_as_before_when_the_engine_is_closed():
    before, after, same = run(
        """
        os.environ.pop("OMP_NUM_THREADS", None)
        import torch
        function, before = torch.set_num_threads, torch.get_num_threads()
        with Generator("unillm/tiny", **TINY) as g:
            g.generate(PROMPTS, GREEDY)
        after = torch.get_num_threads()
        print(json.dumps([before, after, torch.set_num_threads is function]))
        """
    )

    assert before == after
    assert same


def test_one_bad_prompt_fails_vllm_s_whole_call_and_here_itself_alone():
    alone, texts = run(
        """
        os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0",
                          VLLM_LOGGING_LEVEL="ERROR", VLLM_LOGGING_STREAM="ext://sys.stderr")
        from unillm.models import find_model
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

    assert "VLLMValidationError" == alone
    assert ["3 4 5 6 7 8 9", "PromptTooLongError", "3 4 5 6 7 8 9"] == texts
