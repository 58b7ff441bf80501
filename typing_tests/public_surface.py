# SPDX-License-Identifier: Apache-2.0

"""What type checkers see of the public calls. Checked, never run."""

from __future__ import annotations

from collections.abc import Iterator

from typing_extensions import assert_type

from unillm import (
    LLM,
    BackendStatus,
    CompletionDelta,
    Generator,
    RequestHandle,
    RequestOutput,
    SamplingParams,
    backends,
)


def calls(generator: Generator) -> None:
    """Each public call gives what its name promises."""
    params = SamplingParams(temperature=0, stop=["a"], max_tokens=None)
    assert_type(generator.generate("a", params), list[RequestOutput])
    assert_type(
        generator.generate(["a"], [params], on_error="return"),
        list[RequestOutput | Exception],
    )
    assert_type(generator.chat([{"role": "user", "content": "a"}]), list[RequestOutput])
    assert_type(generator.stream("a"), Iterator[CompletionDelta])
    assert_type(generator.submit([1, 2]), RequestHandle)
    assert_type(generator.submit("a").result(timeout=1.0), RequestOutput)
    assert_type(backends(), list[BackendStatus])
    with Generator("unillm/tiny") as same:
        assert_type(same, Generator)


def calls_of_vllm(llm: LLM) -> None:
    """A program for vLLM is checked as one for unillm."""
    params = llm.get_default_sampling_params()
    params.max_tokens = 5
    params.stop = ["a"]
    assert_type(llm.generate(["a"], params), list[RequestOutput])
    assert_type(llm.chat([{"role": "user", "content": "a"}]), list[RequestOutput])


def refused() -> None:
    """What is wrong is seen by the checker."""
    SamplingParams(temprature=0.5)  # type: ignore[call-arg]
    Generator("unillm/tiny", max_num_seq=1)  # type: ignore[call-arg]
