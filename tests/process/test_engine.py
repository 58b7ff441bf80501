# SPDX-License-Identifier: Apache-2.0

"""An engine in a process, seen by the program: what crosses, and what stays."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import attrs
import pytest
from gone import is_gone, wait_until
from msgspec import msgpack

from unillm import LoRARequest, SamplingParams, StructuredOutputs
from unillm.engines.base import (
    Capabilities,
    EngineLimits,
    EngineOutput,
    EngineRequest,
    TokenLogprobs,
)
from unillm.errors import (
    BackendNotFoundError,
    ConfigError,
    EngineOutOfMemoryError,
    InvalidParameterError,
    RequestFailedError,
)
from unillm.outputs import SlotMetrics
from unillm.phases import listening
from unillm.process import values
from unillm.process.channel import ENCODER, readable
from unillm.process.compiling import StructureCompiler
from unillm.process.engine import WINDOW
from unillm.process.messages import Output
from unillm.process.registry import BackendRegistry
from unillm.resolve import configure
from unillm.text.grammar import GrammarCompiler

LONG = SamplingParams(temperature=0, max_tokens=400, ignore_eos=True)
SHORT = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)


def request(**fields):
    return EngineRequest(
        **{
            "request_id": "7-0",
            "prompt_token_ids": (1, 2, 500_000),
            "params": SHORT,
            "stop_token_ids": frozenset({3, 4}),
            "max_new_tokens": 4,
            "seed": 2**63 + 5,
            **fields,
        }
    )


# ------------------------------------------------------------------------------ values


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"priority": -5, "arrival": 9, "cache_salt": "salt"},
        {"bad_words_token_ids": ((1,), (2, 3)), "seed": 0},
        {"logprob_token_ids": (7, 5)},
        {"lora_request": LoRARequest("name", 3, "/a/päth")},
        {"params": SamplingParams(logit_bias={5: 1.5, 7: -100.0}, logprobs=3)},
        {"params": SamplingParams(allowed_token_ids=[1, 2], temperature=0.5)},
        {"params": SamplingParams(structured_outputs={"choice": ["a", "b"]})},
        {"params": SamplingParams(structured_outputs={"json_object": True})},
    ],
    ids=str,
)
def test_a_request_crosses_unchanged(fields):
    sent = request(**fields)

    assert values.decode_request(values.encode_request(sent)) == sent


def test_only_the_core_searches_for_stop_strings():
    sent = request(params=SamplingParams(stop=["\ud800"]))

    assert values.decode_request(values.encode_request(sent)).params.stop == []


def test_numbers_beyond_64_bits_are_as_good_as_no_limit():
    sent = request(params=SamplingParams(max_tokens=10**30), priority=10**30)

    crossed = values.decode_request(values.encode_request(sent))

    assert crossed.params.max_tokens == crossed.priority == 2**63 - 1


@pytest.mark.parametrize("value", [object(), [object()], 2**70, "\ud800"], ids=str)
def test_an_extra_argument_that_cannot_be_sent_is_refused(value):
    odd = SamplingParams(extra_args={"x": value})

    with pytest.raises(InvalidParameterError, match="cannot be sent"):
        values.encode_request(request(params=odd))


def test_a_text_that_no_encoding_writes_is_refused():
    odd = SamplingParams(structured_outputs=StructuredOutputs(regex="\ud800"))

    with pytest.raises(InvalidParameterError, match="cannot be sent"):
        values.encode_request(request(params=odd))


def test_an_output_crosses_unchanged():
    logprobs = TokenLogprobs(-0.5, 2, [5, 6], [-0.25, -math.inf])
    sent = EngineOutput(
        request_id="7-0",
        token_ids=[5],
        logprobs=[logprobs],
        finish_reason="stop",
        stop_token_id=5,
        num_cached_tokens=16,
        slots=SlotMetrics(slot=2, waited_steps=3, refilled=True),
        prompt_logprobs=[logprobs, logprobs],
    )

    encoded = ENCODER.encode(values.as_output(sent))
    crossed = values.as_engine_output(msgpack.decode(encoded, type=Output))

    assert crossed == sent


def test_a_configuration_crosses_unchanged():
    sent = configure(
        "unillm/tiny",
        "pipe",
        dtype="float32",
        max_model_len=64,
        step_timeout_s=math.inf,
        backend_options={"a": {"b": [1, None]}},
        speculative_config={"method": "ngram"},
    )

    crossed = values.decode_config(values.encode_config(sent))

    assert crossed == sent
    assert crossed.sources == sent.sources


def test_an_option_that_is_an_object_is_refused_by_name():
    config = configure("unillm/tiny", "pipe", backend_options={"hook": [print]})

    with pytest.raises(ConfigError, match=r"backend_options\['hook'\]"):
        values.encode_config(config)


# -------------------------------------------------------------------------- generators


def _held():
    """Return what each open file of this program is, and its threads."""
    files = []
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            files.append(str(each.readlink()))
    return Counter(files), Counter(threading.enumerate())


def _new_since(before):
    """Return what is held now and was not before: other tests may let things go."""
    return [now - then for now, then in zip(_held(), before, strict=True)]


def test_a_backend_that_this_environment_lacks_generates(open_pipe):
    with open_pipe() as generator:
        [output] = generator.generate([[1, 2, 3]], SHORT)

    assert output.token_ids == [65, 66, 67, 68]
    assert generator.backend == "pipe"


def test_whether_a_backend_reads_weights_is_known_before_a_download():
    registry = BackendRegistry(sys.executable)

    assert registry.load("pipe").reads_weights is False
    assert registry.load("transformers").reads_weights is True


def test_a_backend_that_neither_environment_has_is_named(open_pipe):
    with pytest.raises(BackendNotFoundError, match="'absent'") as caught:
        open_pipe("absent")

    assert {"pipe", "reference"} <= set(caught.value.installed)


def test_a_refusal_of_the_engine_arrives_as_it_is(open_pipe):
    generator = open_pipe()

    with pytest.raises(InvalidParameterError, match="an unlucky number") as caught:
        generator.generate([[1] * 13], SHORT)

    assert (caught.value.parameter, caught.value.value) == ("prompt", (13, "ids"))
    assert generator.generate([[1]], SHORT)[0].finish_reason == "length"


def test_phases_of_loading_are_heard_here(open_pipe):
    heard = []

    with listening(heard.append):
        open_pipe()

    assert any(each.name == f"starting {sys.executable}" for each in heard)
    script = functools.partial(filter, lambda each: each.name == "reading the script")
    until = time.monotonic() + 5  # they come on a socket of their own
    while len([*script(heard)]) < 3 and time.monotonic() < until:
        time.sleep(0.01)
    assert [(each.message, each.fraction, each.is_over) for each in script(heard)] == [
        ("", None, False),
        ("line 1", 0.5, False),
        ("", None, True),
    ]
    assert {each.total_bytes for each in script(heard)} == {7}


def test_an_error_while_loading_arrives_as_it_is(open_pipe):
    with pytest.raises(EngineOutOfMemoryError, match="5 GiB of 4 GiB"):
        open_pipe(at="load", fault="memory")


def test_what_an_engine_prints_disturbs_nothing(open_pipe, capfd):
    generator = open_pipe(at="every step", fault="chatter")

    generator.generate([[1]], SHORT)

    generator.close()
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err.count("engines print on standard output") >= len("ABCD")
    assert "and so do their children" in printed.err


def test_statistics_come_while_a_step_is_computed(open_pipe):
    generator = open_pipe(at=3, fault="hang", step_timeout_s=5.0)
    handle = generator.submit([1], LONG)
    next(iter(handle))

    assert wait_until(lambda: generator.stats()["engine"].get("steps") == 3)

    handle.cancel()


def test_statistics_that_are_not_plain_data_say_so_each_time(open_pipe):
    generator = open_pipe(odd_stats=True)

    found = [generator.stats()["engine"] for _ in range(2)]

    assert found == [{"error": "TypeError: object is not plain data"}] * 2


def test_the_engine_waits_for_a_program_that_does_not_read(open_pipe):
    engine = open_pipe()._driver.engine
    engine.add_request(request(params=LONG, max_new_tokens=400))
    engine.step()

    ahead = wait_until(lambda: engine.stats()["steps"] > 2 * WINDOW, seconds=0.5)

    assert not ahead
    engine.abort(["7-0"])


def test_an_aborted_request_leaves_the_engine_without_a_further_step(open_pipe):
    engine = open_pipe()._driver.engine
    engine.add_request(request(params=LONG, max_new_tokens=400))
    engine.step()

    engine.abort(["7-0"])

    assert wait_until(lambda: engine.stats()["running"] == 0)


def test_a_request_is_cancelled_between_steps_without_outputs(open_pipe):
    generator = open_pipe(silent_after=1)
    handle = generator.submit([1], LONG)
    next(iter(handle))

    handle.cancel()

    assert wait_until(lambda: generator.stats()["engine"]["running"] == 0)


def test_no_request_waits_for_the_structure_of_another(open_pipe):
    generator = open_pipe(endless_compiling=True)
    structure = StructuredOutputs(regex="a+")
    held = generator.submit([1], SamplingParams(structured_outputs=structure))
    assert wait_until(lambda: generator.stats()["live"] == 1)

    assert generator.submit([1], SHORT).result(timeout=20).token_ids == [65, 66, 67, 68]

    assert not held.done()
    held.cancel()


def test_outputs_that_are_too_long_together_are_sent_one_by_one(open_pipe):
    generator = open_pipe(max_frame=350, width=100)

    found = generator.generate([[1], [2], [3], [4]], SHORT)

    expected = [65] * 100 + [66] * 100 + [67] * 100 + [68] * 100
    assert [each.token_ids for each in found] == [expected] * 4


def test_structures_are_compiled_where_the_engine_is(open_pipe, monkeypatch):
    monkeypatch.setattr(GrammarCompiler, "is_installed", lambda: False)
    generator = open_pipe("reference")
    params = attrs.evolve(SHORT, ignore_eos=False, max_tokens=8)
    params.structured_outputs = StructuredOutputs(choice=("seven", "eight"))

    [output] = generator.generate("Add 3 and 4:", params)

    assert output.text in ("seven", "eight")
    params.structured_outputs = StructuredOutputs(regex="(a")
    with pytest.raises(InvalidParameterError, match="unclosed group") as caught:
        generator.generate("Add 3 and 4:", params)
    assert caught.value.parameter == "structured_outputs"


def test_a_structure_that_fails_to_compile_fails_its_request_alone():
    structure = StructuredOutputs(regex="a")
    wanted = request(params=SamplingParams(structured_outputs=structure))
    limits = EngineLimits(max_model_len=8, max_num_seqs=1, vocab_size=8)
    compiler = StructureCompiler(None, limits, Capabilities())

    found = []
    for _ in range(2):
        compiler.submit(wanted)
        assert readable([compiler], 10)
        found += [error for _, error in compiler.compiled()]

    assert [type(each) for each in found] == [RequestFailedError] * 2
    assert "could not be compiled in the engine's process" in str(found[0])


def test_nothing_is_left_of_a_closed_engine(open_pipe):
    open_pipe().close()  # what is made once
    before = _held()
    generator = open_pipe(grandchild=True)
    generator.generate([[1]], SHORT)
    pid = generator._driver.engine.pid

    generator.close()

    assert is_gone(pid)
    assert wait_until(lambda: not any(_new_since(before))), _new_since(before)


def test_an_output_that_is_too_long_fails_its_request_alone(open_pipe):
    generator = open_pipe(max_frame=300, width=1000)

    with pytest.raises(RequestFailedError, match="too long to be sent"):
        generator.generate([[1]], SHORT)
    assert generator.stats()["engine"]["running"] == 0


@pytest.mark.parametrize("where", ["argument", "variable", "name", "file"])
def test_an_environment_is_named_in_each_way(where, monkeypatch, tmp_path, interpreter):
    from unillm import Generator
    from unillm.process import environments

    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    path = os.environ["PYTHONPATH"]
    python = interpreter(f'PYTHONPATH="{path}" exec "{sys.executable}" "$@"')
    options = {}
    if where == "argument":
        options["python"] = python
    elif where == "variable":
        monkeypatch.setenv("UNILLM_PYTHON_PIPE", python)
    else:
        known = environments.Environment(python=python, backends=("pipe",))
        environments.save("piped", known)
        options = {"python": "piped"} if where == "name" else {}

    with Generator("unillm/tiny", backend="pipe", **options) as generator:
        assert generator.generate([[1]], SHORT)[0].token_ids == [65, 66, 67, 68]


def test_a_home_that_is_not_a_folder_has_no_environments(monkeypatch):
    from unillm.process.environments import environments

    monkeypatch.setenv("XDG_CONFIG_HOME", "/dev/null")

    assert environments() == {}


def test_output_messages_are_short():
    plain = EngineOutput(request_id="123-0", token_ids=[500])

    assert len(ENCODER.encode(values.as_output(plain))) <= 20


def test_a_session_counts_the_engines_process(open_pipe):
    from unillm.bench.accounting import session

    generator = open_pipe()
    pid = generator._driver.engine.pid

    found = session(os.getsid(0))

    assert {os.getpid(), pid} <= found.keys()


def test_the_class_shaped_like_vllms_takes_an_interpreter():
    from unillm import LLM

    with LLM("unillm/tiny", backend="pipe", python=sys.executable) as llm:
        [output] = llm.generate({"prompt_token_ids": [1]}, SHORT, use_tqdm=False)

    assert output.outputs[0].token_ids == [65, 66, 67, 68]
