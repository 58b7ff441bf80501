# SPDX-License-Identifier: Apache-2.0

"""`Generator`: prompts in, text out, on any backend.

Each call turns its prompts into `RequestHandle` objects with the `RequestMaker` and
submits them to the `Driver`, whose thread owns the engine.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, overload

from typing_extensions import Self, Unpack

from .errors import GeneratorClosedError
from .keywords import suggest_names
from .lora import LoRALike, LoRARequest
from .outputs import CompletionDelta, RequestOutput
from .params import SamplingParams
from .phase_bars import shown_phases
from .phases import phase
from .resolve import Resolved, resolve
from .runtime.arguments import (
    ChatOptions,
    GenerateOptions,
    ListOptions,
    OnError,
    ParamsLike,
    PriorityLike,
    UseTqdm,
)
from .runtime.calls import ListCall
from .runtime.driver import CLOSED, Driver
from .runtime.handle import RequestHandle, read_and_cancel
from .runtime.requests import ChatPrompt, RequestMaker, chat_prompts
from .runtime.text_methods import TextMethods
from .text.loading import read_model_text
from .text.prompts import Conversation, Prompts, PromptType, as_prompts

log = logging.getLogger("unillm")


@suggest_names()
class Generator(TextMethods):
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

    def _open(self, resolved: Resolved) -> None:
        """Read the model's text files, then load the engine."""
        self._driver: Driver | None = None
        self.config = resolved.config
        self.backend = resolved.backend.name
        with shown_phases():
            self._load(resolved)

    def _load(self, resolved: Resolved) -> None:
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
        )
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
        use_tqdm: UseTqdm = False,
        priority: PriorityLike = 0,
        timeout_s: float | None = None,
    ) -> Any:
        """Generate for one prompt or many, and wait.

        Args:
            prompts: A text; a list of token ids; ``{"prompt": text}``;
                ``{"prompt_token_ids": ids}``; ``{"messages": [...]}``, a conversation
                that the chat template renders; or a list, array or column of these.
            params: One `SamplingParams` for all prompts, a list with one for each, or
                `None` for the model's own defaults.
            lora_request: One adapter for all prompts, a list with one or `None` for
                each, or `None` for the model alone.
            on_error: "raise", or "return" to put each error at the index of its prompt.
            use_tqdm: Show a progress bar; or a callable that makes one, such as
                ``functools.partial(tqdm, leave=False)``.
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
        use_tqdm: UseTqdm = False,
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
            use_tqdm: Show a progress bar; or a callable that makes one.
            priority: Lower is sooner; a list has one for each conversation.
            timeout_s: Seconds that each request has from now.

        Returns:
            A list of `RequestOutput` in the order of the conversations.

        Raises:
            ChatTemplateError: There is no template, or it refused the messages.
            RequestError: A request failed, as for `generate`.
        """
        options = {
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": continue_final_message,
            "chat_template": chat_template,
            "chat_template_content_format": chat_template_content_format,
            "tools": tools,
            "chat_template_kwargs": chat_template_kwargs,
        }
        prompts = chat_prompts(messages, options)
        call = self._call(prompts, params, lora_request, priority, timeout_s)
        return call.run(on_error, use_tqdm=use_tqdm)

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
        return ListCall(make, submit=partial(driver.submit, block=True))

    # --------------------------------------------------------------------- one request

    def submit(
        self,
        prompt: PromptType,
        params: SamplingParams | None = None,
        *,
        lora_request: LoRARequest | None = None,
        priority: int = 0,
        timeout_s: float | None = None,
    ) -> RequestHandle:
        """Start one request and return at once.

        Args:
            prompt: One prompt in any form that `generate` takes.
            params: `None` for the model's own defaults.
            lora_request: An adapter, or `None` for the model alone.
            priority: Lower is sooner.
            timeout_s: Seconds that the request has.

        Raises:
            RequestError: The request is refused.
            QueueFullError: Too many requests wait.
            EngineDeadError: The engine died.
            GeneratorClosedError: The generator is closed.
        """
        driver = self._open_driver()
        handle = self._requests.make(prompt, params, lora_request, priority, timeout_s)
        driver.submit(handle, block=False)
        return handle

    def stream(
        self,
        prompt: PromptType,
        params: SamplingParams | None = None,
        *,
        lora_request: LoRARequest | None = None,
        priority: int = 0,
        timeout_s: float | None = None,
    ) -> Iterator[CompletionDelta]:
        """Generate for one prompt and yield new text as soon as it is final.

        The arguments are those of `submit`. Leaving the loop cancels the request.

        Raises:
            RequestError: At the call if the request is refused, else while iterating.
        """
        handle = self.submit(
            prompt,
            params,
            lora_request=lora_request,
            priority=priority,
            timeout_s=timeout_s,
        )
        return read_and_cancel(handle)

    async def astream(
        self,
        prompt: PromptType,
        params: SamplingParams | None = None,
        *,
        lora_request: LoRARequest | None = None,
        priority: int = 0,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[CompletionDelta, None]:
        """Yield new text in an event loop; a slow reader never slows the engine.

        The arguments are those of `submit`. Leaving the loop cancels the request as
        soon as the generator object is closed; `contextlib.aclosing` closes it at once.

        Raises:
            RequestError: While iterating.
        """
        handle = self.submit(
            prompt,
            params,
            lora_request=lora_request,
            priority=priority,
            timeout_s=timeout_s,
        )
        try:
            async for delta in handle:
                yield delta
        finally:
            handle.leave()

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

    def _open_driver(self) -> Driver:
        if self._driver is None:
            raise GeneratorClosedError(CLOSED)
        self._driver.owner.check()
        return self._driver


def open_generator(resolved: Resolved) -> Generator:
    """Return a generator for a model and a backend that are resolved already."""
    generator = Generator.__new__(Generator)
    generator._open(resolved)  # noqa: SLF001
    return generator
