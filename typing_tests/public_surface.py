# SPDX-License-Identifier: Apache-2.0

"""What mypy and pyright accept of the public calls, and what they refuse.

The file is checked and never runs. Each refused call has a `type: ignore` comment; both
checkers report one that is not needed, so a wrong call that passes is an error.
"""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, closing

from typing_extensions import assert_type

import unillm
import unillm.backend
from unillm import (
    LLM,
    BackendStatus,
    CompletionDelta,
    EngineConfig,
    Generator,
    LoRARequest,
    PromptType,
    RequestHandle,
    RequestOutput,
    SamplingParams,
    StructuredOutputs,
    TokensPrompt,
    backends,
)

PARAMS = SamplingParams(temperature=0, stop=["a"], max_tokens=None)
CHAT = [{"role": "user", "content": "a"}]
CHAT_PROMPT: PromptType = {"messages": CHAT, "tools": []}
ADAPTER = LoRARequest("one", 1, "/adapters/one")


def prompts_of_every_form(generator: Generator) -> None:
    """Texts, token ids, dicts, conversations, and lists of them."""
    tokens: TokensPrompt = {"prompt_token_ids": [1, 2], "prompt": "a"}
    several: list[PromptType] = ["a", [1, 2], tokens]
    generator.generate("a")
    generator.generate([1, 2])
    generator.generate(range(3))
    generator.generate({"prompt": "a"})
    generator.generate({"messages": CHAT})
    generator.generate(["a", "b"])
    generator.generate([[1, 2], [3]])
    generator.generate([{"prompt": "a"}, {"prompt": "b"}])
    generator.generate(["a", [1, 2], tokens, {"messages": CHAT}])
    generator.generate(several)


def list_calls(generator: Generator) -> None:
    """`on_error` decides whether errors are among the results."""
    one_for_each = generator.generate(
        ["a", "b"],
        [PARAMS, PARAMS],
        lora_request=[ADAPTER, None],
        priority=[0, 1],
        timeout_s=1.0,
        use_tqdm=True,
    )
    assert_type(one_for_each, list[RequestOutput])
    assert_type(generator.generate("a", on_error="raise"), list[RequestOutput])
    assert_type(
        generator.generate(["a"], PARAMS, on_error="return"),
        list[RequestOutput | Exception],
    )
    assert_type(generator.chat(CHAT, PARAMS), list[RequestOutput])
    assert_type(
        generator.chat([CHAT, CHAT], tools=[], on_error="return"),
        list[RequestOutput | Exception],
    )


async def calls_of_an_event_loop(generator: Generator) -> None:
    """The async calls return the same types."""
    assert_type(await generator.agenerate("a", PARAMS), list[RequestOutput])
    assert_type(
        await generator.agenerate(["a"], priority=[1], on_error="return"),
        list[RequestOutput | Exception],
    )
    assert_type(await generator.achat(CHAT, PARAMS), list[RequestOutput])
    assert_type(
        await generator.achat([CHAT, CHAT], tools=[], on_error="return"),
        list[RequestOutput | Exception],
    )
    deltas: AsyncGenerator[CompletionDelta, None] = generator.astream("a")
    assert_type(await anext(deltas), CompletionDelta)
    async with aclosing(generator.achat_stream(CHAT, PARAMS, tools=[])) as stream:
        assert_type([delta async for delta in stream], list[CompletionDelta])
    assert_type(await Generator.acreate("unillm/tiny", max_num_seqs=4), Generator)
    assert_type(await generator.submit("a"), RequestOutput)


def single_requests(generator: Generator) -> None:
    """A stream yields deltas, a handle returns the output."""
    deltas: Iterator[CompletionDelta] = generator.stream("a", lora_request=ADAPTER)
    assert_type(next(deltas), CompletionDelta)
    with closing(generator.chat_stream(CHAT, chat_template_kwargs={})) as stream:
        assert_type(list(stream), list[CompletionDelta])
    assert_type(generator.submit([1, 2], timeout_s=1.0), RequestHandle)
    assert_type(generator.submit("a").result(timeout=1.0), RequestOutput)


def lazy_prompts(generator: Generator, prompts: Iterator[str]) -> None:
    """Prompts of any iterable; `on_error` decides as in list calls."""
    assert_type(generator.generate_iter(prompts, PARAMS), Iterator[RequestOutput])
    assert_type(
        generator.generate_iter([CHAT_PROMPT], on_error="return", max_pending=2),
        Iterator[RequestOutput | Exception],
    )
    assert_type(
        generator.as_completed([[1, 2], "a"], iter([PARAMS, PARAMS])),
        Iterator[tuple[int, RequestOutput]],
    )


def params_of_a_model(generator: Generator, llm: LLM) -> None:
    """The model's defaults with changes, and a length that may be assigned."""
    params = SamplingParams.from_model(generator, max_tokens=64)
    assert_type(params, SamplingParams)
    assert_type(SamplingParams.from_model(llm), SamplingParams)
    assert_type(params.max_tokens, int | None)
    params.max_tokens = None
    params.max_tokens = 5


def attributes() -> None:
    """A generator is its own context manager and has typed attributes."""
    assert_type(backends(), list[BackendStatus])
    with Generator("unillm/tiny") as generator:
        assert_type(generator, Generator)
        assert_type(generator.backend, str)
        assert_type(generator.config, EngineConfig)
        assert_type(generator.eos_token_ids, frozenset[int])
        assert_type(generator.limits.max_model_len, int)


def calls_of_vllm(llm: LLM) -> None:
    """The same program type-checks after its import of vLLM is changed."""
    params = llm.get_default_sampling_params()
    params.max_tokens = 5
    params.stop = ["a"]
    params.stop.append("b")
    params.logit_bias[5] = 1.0
    assert_type(llm.generate(["a"], params), list[RequestOutput])
    assert_type(llm.chat(CHAT), list[RequestOutput])


def refused_prompts(generator: Generator) -> None:
    """Values that are not a prompt or a conversation."""
    generator.generate(None)  # type: ignore[call-overload]
    generator.generate(5)  # type: ignore[call-overload]
    generator.generate([1.5])  # type: ignore[list-item]
    generator.generate({"text": "a"})  # type: ignore[call-overload]
    generator.generate({"prompt_token_ids": "a"})  # type: ignore[call-overload]
    generator.stream(["a", "b"])  # type: ignore[list-item]
    generator.submit({"prompt": 5})  # type: ignore[arg-type]
    generator.chat("a")  # type: ignore[arg-type]


def refused_options(generator: Generator) -> None:
    """Misspelt names and values of a wrong type."""
    SamplingParams(temprature=0.5)  # type: ignore[call-arg]
    Generator("unillm/tiny", max_num_seq=1)  # type: ignore[call-arg]
    generator.generate("a", {"temperature": 0})  # type: ignore[call-overload]
    generator.generate("a", timeout=1)  # type: ignore[call-overload]
    generator.generate("a", on_error="ignore")  # type: ignore[call-overload]
    generator.generate("a", priority="high")  # type: ignore[arg-type]
    generator.chat(CHAT, add_generation_promt=True)  # type: ignore[call-overload]
    SamplingParams(temperature="hot")  # type: ignore[arg-type]
    SamplingParams(max_tokens="5")  # type: ignore[arg-type]
    SamplingParams(top_p=None)  # type: ignore[arg-type]
    SamplingParams(structured_outputs=5)  # type: ignore[arg-type]
    StructuredOutputs(json=5)  # type: ignore[arg-type]
    PARAMS.max_tokens = "5"  # type: ignore[assignment]
    SamplingParams.from_model("unillm/tiny")  # type: ignore[arg-type]
    generator.generate_iter(5)  # type: ignore[call-overload]
    generator.chat_stream(CHAT, tols=[])  # type: ignore[call-arg]
    generator.stream("a", [PARAMS])  # type: ignore[arg-type]
    generator.submit("a", use_tqdm=True)  # type: ignore[call-arg]


def refused_calls_of_vllm(llm: LLM) -> None:
    """`LLM` has the prompt types of `Generator`."""
    llm.generate({"text": "a"})  # type: ignore[arg-type]
    llm.chat("a")  # type: ignore[arg-type]
    llm.generate("a", on_error="return")  # type: ignore[call-arg]


async def refused_async_options(generator: Generator) -> None:
    """A progress bar belongs to the calls that block."""
    await Generator.acreate("unillm/tiny", max_num_seq=4)  # type: ignore[call-arg]
    await generator.achat(CHAT, use_tqdm=True)  # type: ignore[call-overload]
    await generator.agenerate("a", use_tqdm=True)  # type: ignore[call-overload]


def refused_names() -> None:
    """Names that the modules do not have, although both define `__getattr__`."""
    _ = unillm.Generater  # type: ignore[attr-defined]
    _ = unillm.backend.Engin  # type: ignore[attr-defined]
    assert_type(unillm.__version__, str)
