# SPDX-License-Identifier: Apache-2.0

"""`Generator`: prompts in, text out, on any backend.

Each call turns its prompts into `RequestHandle` objects with the `RequestMaker` and
submits them to the `Driver`, whose thread owns the engine.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, overload

from typing_extensions import Self, Unpack

from .keywords import suggest_names
from .lora import LoRALike
from .outputs import RequestOutput
from .phase_bars import shown_phases
from .phases import phase
from .resolve import Resolved, resolve
from .runtime.arguments import (
    AsyncChatOptions,
    ChatOptions,
    GenerateOptions,
    GeneratorOptions,
    ListOptions,
    OnError,
    ParamsLike,
    PriorityLike,
    UseTqdm,
)
from .runtime.calls import ListCall
from .runtime.chat_prompts import ChatPrompt, chat_prompts, template_of
from .runtime.creating import create_in_thread
from .runtime.cut_notice import CutNotice
from .runtime.driver import Driver
from .runtime.request_methods import RequestMethods
from .runtime.requests import RequestMaker
from .text.loading import read_model_text
from .text.prompts import Conversation, Prompts, as_prompts

log = logging.getLogger("unillm")


@suggest_names()
class Generator(RequestMethods):
    """One way to generate text, on any engine. Safe to use from several threads.

    Use it in a ``with`` block, or call `close`. A forked child cannot use it.

    Args:
        model: Directory, hub id, or the bundled ``"unillm/tiny"``.
        backend: Name of a backend; "auto" takes ``UNILLM_BACKEND`` of the environment,
            or else the best backend that can run here and serve the model.
        python: Interpreter that has the backend, which then runs in a process of it: a
            path, or the name of an environment that ``unillm env add`` has added.
        revision: Branch, tag or commit of a hub id; `None` for its main branch.
        tokenizer: Path or object; `None` for the model's own. It is not changed.
        dtype: "auto" (the checkpoint's), "float32", "bfloat16" or "float16".
        max_model_len: Prompt and new tokens; `None` for what model and memory allow.
        max_num_seqs: Requests at the same time; `None` for the backend's choice.
        max_num_batched_tokens: Prompt tokens in one step; longer prompts go in chunks.
        max_logprobs: Largest `SamplingParams.logprobs` allowed; -1 for no limit.
        max_queued_requests: Requests that may wait for their first token.
        max_queued_tokens: Prompt tokens that may wait, over all requests.
        step_timeout_s: Seconds after which an engine that does not return from a step
            counts as dead, and every waiting call raises; `None` for 600.
        strict_length: Refuse `max_tokens` over the context instead of fitting it.
        strict_generation_config: Refuse generation settings that have no effect here.
        chat_template: Template text, or the name of one of the tokenizer's templates.
        trust_remote_code: Run code from the checkpoint. Read it first.
        seed: Draws the seeds of requests that set none.
        enforce_eager: Compile nothing and record no CUDA graphs.
        quantization: Such as "awq" or "fp8"; `None` for the checkpoint's own.
        kv_cache_dtype: Type of keys and values; "auto" is that of the model.
        tensor_parallel_size: Devices that share each layer.
        pipeline_parallel_size: Groups of devices that share the layers.
        data_parallel_size: Replicas of the engine, each with devices of its own.
        gpu_memory_utilization: Share of a device's memory that the engine may take.
        enable_prefix_caching: Reuse the cache of prompts that begin alike.
        speculative_config: Speculative decoding, in vLLM's words.
        enable_lora: Allow requests to name a LoRA adapter.
        max_loras: Adapters in one step.
        max_lora_rank: Largest rank of an adapter.
        backend_options: Options that only the chosen backend has.

    Attributes:
        backend: Name of the chosen backend.
        config: Options that the generator was created with.
        limits: Context, requests at a time and vocabulary of the engine.
        eos: The model's EOS tokens, each with its sources.
        eos_token_ids: Ids of all EOS tokens.

    Raises:
        ConfigError: An option has an invalid value, or the backend refuses it.
        ModelError: The model cannot be found, read or served.
        BackendError: The backend is not installed or cannot run here.
        EngineOutOfMemoryError: The model or its cache does not fit.
    """

    __module__ = "unillm"

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        backend: str = "auto",
        python: str | os.PathLike[str] | None = None,
        revision: str | None = None,
        tokenizer: Any = None,
        dtype: str = "auto",
        max_model_len: int | None = None,
        max_num_seqs: int | None = None,
        max_num_batched_tokens: int | None = None,
        max_logprobs: int | None = None,
        max_queued_requests: int | None = None,
        max_queued_tokens: int | None = None,
        step_timeout_s: float | None = None,
        strict_length: bool = False,
        strict_generation_config: bool = False,
        chat_template: str | None = None,
        trust_remote_code: bool = False,
        seed: int = 0,
        enforce_eager: bool = False,
        quantization: str | None = None,
        kv_cache_dtype: str = "auto",
        tensor_parallel_size: int = 1,
        pipeline_parallel_size: int = 1,
        data_parallel_size: int = 1,
        gpu_memory_utilization: float | None = None,
        enable_prefix_caching: bool | None = None,
        speculative_config: Mapping[str, Any] | None = None,
        enable_lora: bool = False,
        max_loras: int | None = None,
        max_lora_rank: int | None = None,
        backend_options: Mapping[str, Any] | None = None,
    ) -> None:
        arguments = dict(locals())  # at first, the arguments are the only local names
        del arguments["self"]
        self._open(resolve(**arguments))

    @classmethod
    async def acreate(
        cls, model: str | os.PathLike[str], **options: Unpack[GeneratorOptions]
    ) -> Self:
        """Create a generator without blocking the event loop.

        Arguments and errors are those of the class. A task that is cancelled meanwhile
        closes the generator as soon as it is loaded.
        """
        return await create_in_thread(partial(cls, model, **options))

    def _open(self, resolved: Resolved, *, max_tokens: int | None = None) -> None:
        """Read the model's text files, then load the engine."""
        self._driver: Driver | None = None
        self.config = resolved.config
        self.backend = resolved.backend.name
        with shown_phases():
            self._load(resolved, max_tokens)

    def _load(self, resolved: Resolved, max_tokens: int | None) -> None:
        config = self.config
        with phase("reading the tokenizer"):
            self._text = text = read_model_text(
                config.path,
                config.tokenizer,
                config.chat_template,
                trust_remote_code=config.trust_remote_code,
            )
        text.defaults.report(model=config.model, strict=config.strict_generation_config)
        self.eos = text.eos
        self.eos_token_ids = text.eos.ids
        self._driver = Driver(
            resolved.create_engine,
            max_queued_requests=config.max_queued_requests,
            max_queued_tokens=config.max_queued_tokens,
            step_timeout_s=config.step_timeout_s,
        )
        engine = self._driver.engine
        self.limits = engine.limits
        self._requests = RequestMaker(
            config,
            text,
            engine.limits,
            capabilities=resolved.backend.capabilities.refined(engine.capabilities),
            backend=self.backend,
            backends=resolved.registry.loadable,
            compile_structures=not engine.compiles_structures,
            max_tokens=max_tokens,
        )
        self._notice = CutNotice(engine.limits.max_model_len, max_tokens)
        eos = sorted(self.eos_token_ids)
        log.info("%s: %s, EOS tokens %s", resolved, engine.limits, eos)

    # ---------------------------------------------------------------------- list calls

    @overload
    def generate(
        self,
        prompts: Prompts,
        params: ParamsLike = None,
        *,
        on_error: Literal["raise"] = "raise",
        **options: Unpack[GenerateOptions],
    ) -> list[RequestOutput]: ...

    @overload
    def generate(
        self,
        prompts: Prompts,
        params: ParamsLike = None,
        *,
        on_error: Literal["return"],
        **options: Unpack[GenerateOptions],
    ) -> list[RequestOutput | Exception]: ...

    def generate(
        self,
        prompts: Prompts,
        params: ParamsLike = None,
        *,
        lora_request: LoRALike = None,
        on_error: OnError = "raise",
        use_tqdm: UseTqdm = None,
        priority: PriorityLike = 0,
        timeout_s: float | None = None,
    ) -> Any:
        """Generate for one prompt or many, and wait.

        Args:
            prompts: A text; a list of token ids; ``{"prompt": text}``;
                ``{"prompt_token_ids": ids}``; ``{"messages": [...]}``, a conversation
                that the chat template renders; or a list, array or column of these.
            params: One `SamplingParams` for all prompts, a list with one for each, or
                `None` for the model's own defaults. Where neither they nor the model
                set `max_tokens`, an answer goes on to its own end or that of the
                context; a warning says so once if that, or the model's default, cut
                one.
            lora_request: One adapter for all prompts, a list with one or `None` for
                each, or `None` for the model alone.
            on_error: "raise", or "return" to put each error at the index of its prompt.
            use_tqdm: Show a progress bar; or a callable that makes one, such as
                ``functools.partial(tqdm, leave=False)``. `None` shows one for several
                prompts if standard error is a terminal.
            priority: Lower is sooner; a list has one for each prompt.
            timeout_s: Seconds that each request has from now.

        Returns:
            A list of `RequestOutput` in the order of the prompts, also for one prompt;
            with ``on_error="return"``, of errors too.

        Raises:
            RequestError: The only prompt failed.
            RequestsFailedError: Some of several failed; it carries the others' results.
            EngineDeadError: The engine died.
            GeneratorClosedError: The generator is closed.
        """
        call = self._call(prompts, params, lora_request, priority, timeout_s)
        return call.run(on_error, use_tqdm=use_tqdm)

    @overload
    def chat(
        self,
        messages: Conversation | Sequence[Conversation],
        params: ParamsLike = None,
        *,
        on_error: Literal["raise"] = "raise",
        **options: Unpack[ChatOptions],
    ) -> list[RequestOutput]: ...

    @overload
    def chat(
        self,
        messages: Conversation | Sequence[Conversation],
        params: ParamsLike = None,
        *,
        on_error: Literal["return"],
        **options: Unpack[ChatOptions],
    ) -> list[RequestOutput | Exception]: ...

    def chat(
        self,
        messages: Conversation | Sequence[Conversation],
        params: ParamsLike = None,
        *,
        lora_request: LoRALike = None,
        chat_template: str | None = None,
        chat_template_content_format: str = "auto",
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Any] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        on_error: OnError = "raise",
        use_tqdm: UseTqdm = None,
        priority: PriorityLike = 0,
        timeout_s: float | None = None,
    ) -> Any:
        """Answer one conversation or many, and wait.

        Args:
            messages: A list of ``{"role": …, "content": …}``, or a list of such lists.
            params: One `SamplingParams` for all, one for each, or `None`.
            lora_request: One adapter for all, one or `None` for each, or `None`.
            chat_template: Template for this call, or a name of one of the tokenizer's.
            chat_template_content_format: "auto", "string" or "openai", as in vLLM.
            add_generation_prompt: End the prompt where the assistant begins.
            continue_final_message: Continue the last message, the beginning of the
                answer. Needs ``add_generation_prompt=False``, as in vLLM.
            tools: Functions or their JSON schemas, for templates that offer tools.
            chat_template_kwargs: Further variables for the template.
            on_error: "raise" or "return".
            use_tqdm: Show a progress bar, as for `generate`.
            priority: Lower is sooner; a list has one for each conversation.
            timeout_s: Seconds that each request has from now.

        Returns:
            A list of `RequestOutput` in the order of the conversations.

        Raises:
            ChatTemplateError: There is no template, or it refused the messages.
            RequestError: A request failed, as for `generate`.
        """
        prompts = chat_prompts(messages, template_of(locals()))
        call = self._call(prompts, params, lora_request, priority, timeout_s)
        return call.run(on_error, use_tqdm=use_tqdm)

    @overload
    async def achat(
        self,
        messages: Conversation | Sequence[Conversation],
        params: ParamsLike = None,
        *,
        on_error: Literal["raise"] = "raise",
        **options: Unpack[AsyncChatOptions],
    ) -> list[RequestOutput]: ...

    @overload
    async def achat(
        self,
        messages: Conversation | Sequence[Conversation],
        params: ParamsLike = None,
        *,
        on_error: Literal["return"],
        **options: Unpack[AsyncChatOptions],
    ) -> list[RequestOutput | Exception]: ...

    async def achat(
        self,
        messages: Conversation | Sequence[Conversation],
        params: ParamsLike = None,
        *,
        lora_request: LoRALike = None,
        chat_template: str | None = None,
        chat_template_content_format: str = "auto",
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Any] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        on_error: OnError = "raise",
        priority: PriorityLike = 0,
        timeout_s: float | None = None,
    ) -> Any:
        """Answer conversations without blocking the event loop.

        Arguments, result and errors are those of `chat`, but for `use_tqdm`.
        """
        prompts = chat_prompts(messages, template_of(locals()))
        call = self._call(prompts, params, lora_request, priority, timeout_s)
        return await call.arun(on_error)

    @overload
    async def agenerate(
        self,
        prompts: Prompts,
        params: ParamsLike = None,
        *,
        on_error: Literal["raise"] = "raise",
        **options: Unpack[ListOptions],
    ) -> list[RequestOutput]: ...

    @overload
    async def agenerate(
        self,
        prompts: Prompts,
        params: ParamsLike = None,
        *,
        on_error: Literal["return"],
        **options: Unpack[ListOptions],
    ) -> list[RequestOutput | Exception]: ...

    async def agenerate(
        self,
        prompts: Prompts,
        params: ParamsLike = None,
        *,
        lora_request: LoRALike = None,
        on_error: OnError = "raise",
        priority: PriorityLike = 0,
        timeout_s: float | None = None,
    ) -> Any:
        """Generate without blocking the event loop.

        Arguments, result and errors are those of `generate`. Any number of event loops
        and threads may use one generator. Cancelling the task cancels its requests.
        """
        call = self._call(prompts, params, lora_request, priority, timeout_s)
        return await call.arun(on_error)

    def _call(
        self,
        prompts: Prompts | list[ChatPrompt],
        params: ParamsLike,
        lora_request: LoRALike,
        priority: PriorityLike,
        timeout_s: float | None,
    ) -> ListCall:
        driver = self._open_driver()
        prompts = as_prompts(prompts)
        make = self._requests.makers(prompts, params, lora_request, priority, timeout_s)
        submit = partial(driver.submit, block=True)
        return ListCall(make, submit=submit, notice=self._notice)

    # ------------------------------------------------------------------------- closing

    def stats(self) -> dict[str, Any]:
        """Return counters of the requests and of the engine, as JSON values."""
        return self._open_driver().stats()

    def check_health(self) -> None:
        """Raise `EngineDeadError` if the engine died; return at once otherwise."""
        self._open_driver().check_health()

    def close(self) -> None:
        """End all requests, which raise `GeneratorClosedError`, and free the engine.

        Closing twice does nothing; so does leaving a ``with`` block in a forked child.
        """
        if self._driver is not None:
            self._driver.owner.check()
        self.__exit__()

    def __repr__(self) -> str:
        if not hasattr(self, "limits"):
            return "<Generator that is not loaded>"
        state = "closed" if self._driver is None else "open"
        return (
            f"<Generator {self.config.model!r} on {self.backend}, {state}: context of "
            f"{self.limits.max_model_len} tokens, {self.limits.max_num_seqs} requests "
            "at a time>"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        driver, self._driver = self._driver, None
        if driver is not None:
            driver.close()

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        driver = getattr(self, "_driver", None)
        if driver is not None and driver.owner.is_here():
            # The module `warnings` may be gone: Python is ending.
            _warn(
                f"a Generator for {self.config.model!r} was not closed; use it in a "
                "`with` block or call close()",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )
            driver.abandon()


def open_generator(resolved: Resolved, *, max_tokens: int | None = None) -> Generator:
    """Return a generator for a model and a backend that are resolved already.

    Args:
        resolved: The model and the backend.
        max_tokens: New tokens of params that set none; `None` for what the context
            holds.
    """
    generator = Generator.__new__(Generator)
    generator._open(resolved, max_tokens=max_tokens)  # noqa: SLF001
    return generator
