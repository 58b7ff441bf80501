# SPDX-License-Identifier: Apache-2.0

"""Every public argument takes any value: it works, or it is an error of unillm's own.

The arguments are those of the signatures, so a new one is tested without a new line.
"""

from __future__ import annotations

import asyncio
import inspect
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import unillm
from unillm import (
    LLM,
    BeamSearchParams,
    EngineConfig,
    Generator,
    LoRARequest,
    RequestHandle,
    SamplingParams,
    StructuredOutputs,
    UnillmError,
    backends,
    inspect_model,
)
from unillm.testing.backends import ScriptedBackend, plugged
from unillm.testing.scripted import ScriptedEngine

HALF = "\ud800"
"""Half a surrogate pair, which no encoding can write."""

ODD_VALUES = st.one_of(
    st.sampled_from(
        [
            *(None, True, False, 0, -1, 1, 10**400, -(10**400), 2**63),
            *(0.0, -0.0, 0.5, float("nan"), float("inf"), -float("inf"), 1e308, 1j),
            *("", "5", "auto", HALF, f"a{HALF}", "\0", "a" * 10_000),
            *(b"", b"5", bytearray(b"a"), object(), object, len, ...),
            *(
                [],
                {},
                set(),
                (),
                range(3),
                [[]],
                [{}],
                {"": None},
                {1: 2},
                {HALF: HALF},
            ),
            *([None], [HALF], ["5"], [10**400], [float("nan")], {"prompt": HALF}),
            *([{"role": HALF, "content": HALF}], {"messages": 5}, [[5, HALF]], [True]),
            *(np.array([]), np.array(5), np.zeros((2, 2)), np.array(["a", HALF])),
            *(np.float32("nan"), np.int64(-(2**63)), np.bool_(True)),
            *(Path(HALF), Path("/nowhere"), SamplingParams(max_tokens=2)),
        ]
    ),
    st.integers(),
    st.floats(),
    st.text(st.characters(), max_size=9),
    st.recursive(
        st.one_of(st.none(), st.integers(), st.text(st.characters(), max_size=3)),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.text(st.characters(), max_size=3), inner, max_size=3)
        ),
        max_leaves=6,
    ),
)


@pytest.fixture(scope="module", autouse=True)
def scripted():
    """A backend that computes nothing, so that every call is short."""

    def make_engine(config):
        return ScriptedEngine(lambda request, n: 65, max_model_len=512, vocab_size=512)

    with plugged(ScriptedBackend(make_engine, name="signatures")):
        yield


@pytest.fixture(scope="module")
def generator(scripted):
    with Generator("unillm/tiny", backend="signatures") as generator:
        yield generator


@pytest.fixture(scope="module")
def llm(scripted):
    with LLM("unillm/tiny", backend="signatures") as llm:
        yield llm


def create(kind, model="unillm/tiny", **options):
    kind(model, **{"backend": "signatures", **options}).close()


CHAT = [{"role": "user", "content": "a"}]
SHORT = SamplingParams(max_tokens=2)
CALLS = {
    Generator: {"model": "unillm/tiny"},
    Generator.generate: {"prompts": ["a", "b"], "params": SHORT},
    Generator.agenerate: {"prompts": ["a", "b"], "params": SHORT},
    Generator.chat: {"messages": CHAT, "params": SHORT},
    Generator.achat: {"messages": CHAT, "params": SHORT},
    Generator.chat_stream: {"messages": CHAT, "params": SHORT},
    Generator.achat_stream: {"messages": CHAT, "params": SHORT},
    Generator.generate_iter: {"prompts": ["a", "b"], "params": SHORT},
    Generator.as_completed: {"prompts": ["a", "b"], "params": SHORT},
    Generator.submit: {"prompt": "a", "params": SHORT},
    Generator.stream: {"prompt": "a", "params": SHORT},
    Generator.astream: {"prompt": "a", "params": SHORT},
    Generator.tokenize: {"prompt": "a"},
    Generator.detokenize: {"token_ids": [65]},
    RequestHandle.result: {},
    LLM: {"model": "unillm/tiny"},
    LLM.beam_search: {"prompts": "a", "params": BeamSearchParams(2, 2)},
    LLM.generate: {"prompts": "a", "sampling_params": SHORT, "use_tqdm": False},
    LLM.chat: {"messages": CHAT, "sampling_params": SHORT, "use_tqdm": False},
    SamplingParams: {},
    StructuredOutputs: {"regex": "a+"},
    LoRARequest: {"lora_name": "a", "lora_int_id": 1, "lora_path": "/nowhere"},
    EngineConfig: {"model": "a", "path": Path()},
    backends: {},
    inspect_model: {"model": "unillm/tiny"},
}
"""Valid arguments of each public call that takes any."""

UNTYPED = {"tokenizer", "use_tqdm", "registry"}
"""Arguments that take objects of the caller, whose own errors pass on."""

ARGUMENTS = [
    pytest.param(call, name, id=f"{call.__qualname__}-{name}")
    for call in CALLS
    for name, parameter in inspect.signature(call).parameters.items()
    if name not in UNTYPED | {"self"} and parameter.kind is not parameter.VAR_KEYWORD
]


def test_every_public_call_is_in_the_table():
    data = {
        "MemoryReport",
        "ModelReport",
        "StepReport",
        "WeightsReport",
        "BackendStatus",
        "BatchReport",
        "EngineArgs",
    }
    data |= {
        "BeamSearchParams",
        "FlatLogprobs",
        "LLMEngine",
        "Logprob",
        "SamplingParamsWarning",
        "TextPrompt",
        "TokensPrompt",
    }
    for name in unillm.__all__:
        value = getattr(unillm, name)
        if (
            not callable(value)
            or name in data
            or name.endswith(("Output", "Metrics", "Delta"))
        ):
            continue
        if value in {RequestHandle, UnillmError}:  # the driver has methods of handles
            continue
        if name == "run_batch":  # it writes files; tests/jobs has its arguments
            continue
        members = inspect.getmembers(value, inspect.isfunction)
        for call in [call for _, call in members] if value is Generator else [value]:
            takes = set(inspect.signature(call).parameters) - {"self"}
            assert call in CALLS or not takes or call.__name__[0] == "_", call


async def read(stream):
    return [each async for each in stream]


def run(call, arguments, generator, llm):
    """Make a call and use what it returns."""
    if call in {Generator, LLM}:
        create(call, **arguments)
        return
    if call is RequestHandle.result:
        arguments = {"self": generator.submit("a", SHORT), **arguments}
    elif "." in call.__qualname__:
        owner = llm if call.__qualname__.startswith("LLM.") else generator
        arguments = {"self": owner, **arguments}
    result = call(**arguments)
    if inspect.iscoroutine(result):
        asyncio.run(result)
    elif isinstance(result, AsyncIterator):
        asyncio.run(read(result))
    elif isinstance(result, Iterator):
        list(result)
    elif isinstance(result, RequestHandle):
        result.result(timeout=10)
    elif isinstance(result, SamplingParams):
        generator.generate("a", result)


@pytest.mark.property
@pytest.mark.parametrize(("call", "name"), ARGUMENTS)
@settings(max_examples=40)
@given(value=ODD_VALUES)
def test_an_argument_works_or_is_an_error_of_unillm(call, name, value, generator, llm):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            run(call, {**CALLS[call], name: value}, generator, llm)
        except UnillmError as error:
            assert str(error)
            str(error).encode()
