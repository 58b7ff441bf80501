# SPDX-License-Identifier: Apache-2.0

"""`Generator`: prompts in, truthful text out, on any backend.

The faces (`generate`, `chat`, `stream`, `submit` and the async ones) are thin: each one
turns prompts into `RequestHandle` objects and hands them to the one `Driver`, whose
thread owns the engine.
"""

from __future__ import annotations

import itertools
import logging
import operator
import os
import random
import time
import warnings
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, overload

import attrs
from typing_extensions import Self

from .config import EngineConfig
from .engines.base import SAMPLING_FIELDS, EngineLimits, EngineRequest, Support
from .errors import (
    GeneratorClosedError,
    InvalidParameterError,
    UnsupportedParameterError,
)
from .keywords import suggest_names
from .lora import AdapterBook, LoRALike, LoRARequest, adapters_for
from .outputs import CompletionDelta, RequestOutput
from .params import SamplingParams
from .resolve import Resolved, resolve
from .runtime.calls import Batch, OnError, UseTqdm
from .runtime.completion import Completion
from .runtime.driver import Driver
from .runtime.handle import RequestHandle
from .text.detokenizer import Detokenizer
from .text.grammar import GrammarCompiler
from .text.loading import read_model_text
from .text.prompts import (
    RenderedText,
    as_conversations,
    as_prompts,
    normalise,
    prepare,
    tokenise_bad_words,
)

if TYPE_CHECKING:
    from .text.eos import EosIds
    from .text.prompts import Prompt

log = logging.getLogger("unillm")

ParamsLike = SamplingParams | Sequence[SamplingParams] | None
"""One for all prompts, one for each, or `None` for the model's own defaults."""

PriorityLike = int | Sequence[int]
"""One for all prompts, or one for each."""


@suggest_names
class Generator:
    """One way to generate text, whatever engine does the work.

    Safe to use from several threads. Use it in a ``with`` block, or call `close`.

    Args:
        model: Directory, hub id, or the bundled ``"unillm/tiny"``.
        backend: Which engine; "auto" takes the environment's ``UNILLM_BACKEND`` or
            else the best that can run here and serve the model.
        tokenizer: Path or object, if it is not the model's own. It is not changed.
        dtype: "auto" (the checkpoint's), "float32", "bfloat16" or "float16".
        max_model_len: Prompt and new tokens together; `None` for what the model and
            the memory allow.
        max_num_seqs: Requests worked on at the same time, the slots of a static
            engine; `None` for the backend's choice.
        max_num_batched_tokens: Prompt tokens computed in one step. A longer prompt is
            computed in chunks, so that the others go on.
        max_logprobs: Largest `SamplingParams.logprobs` allowed; -1 for no limit.
        max_queued_requests: Requests that may wait for their first token.
        max_queued_tokens: Prompt tokens that may wait, over all requests.
        step_timeout_s: Seconds after which an engine that does not come back from a
            step counts as dead, and every waiter is told; `None` for 600.
        strict_length: Refuse a request whose `max_tokens` does not fit the context,
            instead of fitting it.
        chat_template: Template text to use instead of the tokenizer's.
        trust_remote_code: Run code that the checkpoint brings. Read it first.
        seed: Of the seeds that requests without one of their own are given.
        enforce_eager: Compile nothing and record no CUDA graphs.
        quantization: How weights are stored, such as "awq" or "fp8"; `None` for what
            the checkpoint says.
        kv_cache_dtype: Of keys and values; "auto" is that of the model.
        tensor_parallel_size: Devices that share each layer.
        pipeline_parallel_size: Groups of devices that share the layers.
        gpu_memory_utilization: Share of a device's memory that the engine may take.
        enable_prefix_caching: Keep what was computed for prompts that begin alike.
        speculative_config: Speculative decoding, in vLLM's words.
        enable_lora: Allow requests to name a LoRA adapter.
        max_loras: Adapters in one step.
        max_lora_rank: Largest rank of an adapter.
        backend_options: Options that only the chosen backend knows.

    Raises:
        ConfigError: An option has a value that cannot work, or that the backend does
            not honour.
        ModelError: The model cannot be found, read or served.
        BackendError: The backend is not there or cannot run here.
        EngineOutOfMemoryError: The model or its cache does not fit.
    """

    __module__ = "unillm"

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        backend: str = "auto",
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
        chat_template: str | None = None,
        trust_remote_code: bool = False,
        seed: int = 0,
        enforce_eager: bool = False,
        quantization: str | None = None,
        kv_cache_dtype: str = "auto",
        tensor_parallel_size: int = 1,
        pipeline_parallel_size: int = 1,
        gpu_memory_utilization: float | None = None,
        enable_prefix_caching: bool | None = None,
        speculative_config: Mapping[str, Any] | None = None,
        enable_lora: bool = False,
        max_loras: int | None = None,
        max_lora_rank: int | None = None,
        backend_options: Mapping[str, Any] | None = None,
    ) -> None:
        self._driver: Driver | None = None
        self._open(
            resolve(
                model,
                backend,
                tokenizer=tokenizer,
                dtype=dtype,
                max_model_len=max_model_len,
                max_num_seqs=max_num_seqs,
                max_num_batched_tokens=max_num_batched_tokens,
                max_logprobs=max_logprobs,
                max_queued_requests=max_queued_requests,
                max_queued_tokens=max_queued_tokens,
                step_timeout_s=step_timeout_s,
                strict_length=strict_length,
                chat_template=chat_template,
                trust_remote_code=trust_remote_code,
                seed=seed,
                enforce_eager=enforce_eager,
                quantization=quantization,
                kv_cache_dtype=kv_cache_dtype,
                tensor_parallel_size=tensor_parallel_size,
                pipeline_parallel_size=pipeline_parallel_size,
                gpu_memory_utilization=gpu_memory_utilization,
                enable_prefix_caching=enable_prefix_caching,
                speculative_config=speculative_config,
                enable_lora=enable_lora,
                max_loras=max_loras,
                max_lora_rank=max_lora_rank,
                backend_options=backend_options,
            )
        )

    def _open(self, resolved: Resolved) -> None:
        """Read the model's text files, then load the engine."""
        self._driver = None
        self._config = resolved.config
        self._backend = resolved.backend
        self._registry = resolved.registry
        text = read_model_text(
            self._config.path,
            self._config.tokenizer,
            trust_remote_code=self._config.trust_remote_code,
        )
        self._tokenizer = text.tokenizer
        self._eos = text.eos
        self._default_params = text.default_params
        self._seeds = random.Random(self._config.seed)
        self._numbers = itertools.count()  # next() on it is atomic
        self._driver = Driver(
            partial(self._backend.create_engine, self._config),
            tokenizer=self._tokenizer,
            primary_eos=self._eos.primary,
            max_queued_requests=self._config.max_queued_requests,
            max_queued_tokens=self._config.max_queued_tokens,
            step_timeout_s=self._config.step_timeout_s,
        )
        engine = self._driver.engine
        self._limits = engine.limits
        self._capabilities = self._backend.capabilities.refined(engine.capabilities)
        self._adapters = AdapterBook(max_rank=self._config.max_lora_rank)
        self._grammars = GrammarCompiler(
            self._tokenizer,
            vocab_size=self._limits.vocab_size,
            eos_ids=self._eos.ids,
        )
        log.info(
            "%s on %s (%s, chosen by %s): context %d, %d at a time, end ids %s",
            self._config.model,
            self._backend.name,
            resolved.distribution,
            self._config.source_of("backend").value,
            self._limits.max_model_len,
            self._limits.max_num_seqs,
            sorted(self._eos.ids),
        )

    # ------------------------------------------------------------------- what it is

    @property
    def backend(self) -> str:
        """Name of the backend that was chosen."""
        return self._backend.name

    @property
    def config(self) -> EngineConfig:
        """The options it was created with."""
        return self._config

    @property
    def limits(self) -> EngineLimits:
        """Context, requests at a time and vocabulary of the engine."""
        return self._limits

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """Every id that ends a completion; `eos` says where each was found."""
        return self._eos.ids

    @property
    def eos(self) -> EosIds:
        """The end ids with their sources."""
        return self._eos

    def get_tokenizer(self) -> Any:
        """Return the tokenizer object itself: transformers' or the caller's own."""
        return self._tokenizer.wrapped

    def get_default_sampling_params(self) -> SamplingParams:
        """Return what a call without params uses: the model's `generation_config`.

        A copy each time: changing it changes no later call.
        """
        return attrs.evolve(self._default_params)

    # --------------------------------------------------------------------- generating

    @overload
    def generate(
        self,
        prompts: Any,
        params: ParamsLike = None,
        *,
        lora_request: LoRALike = None,
        on_error: Literal["raise"] = "raise",
        use_tqdm: UseTqdm = False,
        priority: PriorityLike = 0,
        timeout_s: float | None = None,
    ) -> list[RequestOutput]: ...

    @overload
    def generate(
        self,
        prompts: Any,
        params: ParamsLike = None,
        *,
        lora_request: LoRALike = None,
        on_error: Literal["return"],
        use_tqdm: UseTqdm = False,
        priority: PriorityLike = 0,
        timeout_s: float | None = None,
    ) -> list[RequestOutput | Exception]: ...

    def generate(
        self,
        prompts: Any,
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
                that the chat template renders; or a list of any of these.
            params: One `SamplingParams` for all, a list with one for each, or `None`
                for the model's own defaults.
            lora_request: One adapter for all, a list with one or `None` for each, or
                `None` for the model alone.
            on_error: "raise", or "return" to put each error into its output's place.
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
        items = as_prompts(prompts)
        return self._run(
            [partial(self._as_prompt, item) for item in items],
            params,
            lora_request,
            on_error=on_error,
            use_tqdm=use_tqdm,
            priority=priority,
            timeout_s=timeout_s,
        )

    @overload
    def chat(
        self,
        messages: Any,
        params: ParamsLike = None,
        *,
        lora_request: LoRALike = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Any] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        on_error: Literal["raise"] = "raise",
        use_tqdm: UseTqdm = False,
        priority: PriorityLike = 0,
        timeout_s: float | None = None,
    ) -> list[RequestOutput]: ...

    @overload
    def chat(
        self,
        messages: Any,
        params: ParamsLike = None,
        *,
        lora_request: LoRALike = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Any] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        on_error: Literal["return"],
        use_tqdm: UseTqdm = False,
        priority: PriorityLike = 0,
        timeout_s: float | None = None,
    ) -> list[RequestOutput | Exception]: ...

    def chat(
        self,
        messages: Any,
        params: ParamsLike = None,
        *,
        lora_request: LoRALike = None,
        chat_template: str | None = None,
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
            params: As in `generate`.
            lora_request: As in `generate`.
            chat_template: Template text for this call.
            add_generation_prompt: End the prompt where the assistant begins.
            continue_final_message: Go on in the last message instead, whose text is
                the beginning of the answer. Needs ``add_generation_prompt=False``, as
                in vLLM.
            tools: Functions or their JSON schemas, for templates that offer tools to
                the model; a template that knows none ignores them.
            chat_template_kwargs: Further variables for the template.
            on_error: As in `generate`.
            use_tqdm: As in `generate`.
            priority: As in `generate`.
            timeout_s: As in `generate`.

        Returns:
            A list of `RequestOutput` in the order of the conversations.

        Raises:
            ChatTemplateError: There is no template, or it refused the messages.
            InvalidParameterError: *continue_final_message* contradicts
                *add_generation_prompt*.
            RequestError: As in `generate`.
        """
        if continue_final_message and add_generation_prompt:
            raise InvalidParameterError(
                "continue_final_message=True goes on in the last message, "
                "add_generation_prompt=True begins a new one. To go on, pass "
                "add_generation_prompt=False too.",
                parameter="continue_final_message",
                value=True,
            )
        options = {
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": continue_final_message,
            "chat_template": chat_template,
            "tools": tools,
            **(chat_template_kwargs or {}),
        }
        return self._run(
            [
                partial(self._render, each, options)
                for each in as_conversations(messages)
            ],
            params,
            lora_request,
            on_error=on_error,
            use_tqdm=use_tqdm,
            priority=priority,
            timeout_s=timeout_s,
        )

    def stream(
        self,
        prompt: Any,
        params: SamplingParams | None = None,
        *,
        lora_request: LoRARequest | None = None,
        priority: int = 0,
        timeout_s: float | None = None,
    ) -> Iterator[CompletionDelta]:
        """Generate for one prompt and yield what is new as soon as it is final.

        Leaving the loop cancels the request.

        Args:
            prompt: One prompt in any form that `generate` takes.
            params: `None` for the model's own defaults.
            lora_request: An adapter, or `None` for the model alone.
            priority: Lower is sooner.
            timeout_s: Seconds that the request has.

        Raises:
            RequestError: At the call if the prompt is refused, else while iterating.
        """
        handle = self.submit(
            prompt,
            params,
            lora_request=lora_request,
            priority=priority,
            timeout_s=timeout_s,
        )
        return _until_closed(handle)

    def submit(
        self,
        prompt: Any,
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
        handle = self._make_handle(
            self._as_prompt(prompt),
            self._default_params if params is None else _as_params(params),
            adapters_for(lora_request, 1)[0],
            priority=priority,
            timeout_s=timeout_s,
        )
        driver.submit(handle, block=False)
        return handle

    @overload
    async def agenerate(
        self,
        prompts: Any,
        params: ParamsLike = None,
        *,
        lora_request: LoRALike = None,
        on_error: Literal["raise"] = "raise",
        priority: PriorityLike = 0,
        timeout_s: float | None = None,
    ) -> list[RequestOutput]: ...

    @overload
    async def agenerate(
        self,
        prompts: Any,
        params: ParamsLike = None,
        *,
        lora_request: LoRALike = None,
        on_error: Literal["return"],
        priority: PriorityLike = 0,
        timeout_s: float | None = None,
    ) -> list[RequestOutput | Exception]: ...

    async def agenerate(
        self,
        prompts: Any,
        params: ParamsLike = None,
        *,
        lora_request: LoRALike = None,
        on_error: OnError = "raise",
        priority: PriorityLike = 0,
        timeout_s: float | None = None,
    ) -> Any:
        """Do what `generate` does, without blocking the event loop.

        Any number of event loops and threads may use one generator. Cancelling the
        task cancels its requests.

        Args:
            prompts: As in `generate`.
            params: As in `generate`.
            lora_request: As in `generate`.
            on_error: As in `generate`.
            priority: As in `generate`.
            timeout_s: As in `generate`.

        Returns:
            As `generate`.

        Raises:
            RequestError: As in `generate`.
        """
        batch = self._batch(
            [partial(self._as_prompt, item) for item in as_prompts(prompts)],
            params,
            lora_request,
            on_error=on_error,
            priority=priority,
            timeout_s=timeout_s,
        )
        return await batch.arun()

    async def astream(
        self,
        prompt: Any,
        params: SamplingParams | None = None,
        *,
        lora_request: LoRARequest | None = None,
        priority: int = 0,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[CompletionDelta, None]:
        """Do what `stream` does, in an event loop.

        Leaving the loop cancels the request as soon as the generator object is closed;
        `contextlib.aclosing` closes it at once. A slow reader never slows the engine.

        Args:
            prompt: As in `stream`.
            params: As in `stream`.
            lora_request: As in `stream`.
            priority: As in `stream`.
            timeout_s: As in `stream`.

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
            handle.cancel()

    def stats(self) -> dict[str, Any]:
        """Return counters of the requests and of the engine, as JSON values.

        Raises:
            GeneratorClosedError: The generator is closed.
        """
        return self._open_driver().stats()

    # ------------------------------------------------------------------------- closing

    def close(self) -> None:
        """End all requests and free the engine. Closing twice does nothing.

        Waiters get a `GeneratorClosedError`.
        """
        driver, self._driver = self._driver, None
        if driver is not None:
            driver.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        driver = getattr(self, "_driver", None)
        if driver is not None:
            warnings.warn(
                f"a Generator for {self._config.model!r} was not closed; use it in a "
                "`with` block or call close()",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )
            driver.abandon()

    # -------------------------------------------------------------------- one request

    def _open_driver(self) -> Driver:
        if self._driver is None:
            raise GeneratorClosedError(
                "The generator is closed. Create a new one; inside a `with` block, "
                "use it before the block ends."
            )
        return self._driver

    def _as_prompt(self, item: Any) -> Prompt:
        if isinstance(item, Mapping) and set(item) == {"messages"}:
            return self._render(item["messages"], {})
        return normalise(item)

    def _render(self, conversation: Any, options: Mapping[str, Any]) -> Prompt:
        """Make a conversation a text; the generator's own template is the default."""
        template = options.get("chat_template") or self._config.chat_template
        return RenderedText(
            self._tokenizer.apply_chat_template(
                conversation, **{**options, "chat_template": template}
            )
        )

    def _make_handle(
        self,
        prompt: Prompt,
        params: SamplingParams,
        lora_request: LoRARequest | None,
        *,
        priority: int,
        timeout_s: float | None,
    ) -> RequestHandle:
        """Check everything about a request and make its handle; nothing is started."""
        self._check_supported(params)
        adapter = None if lora_request is None else self._check_adapter(lora_request)
        deadline = _deadline(timeout_s)
        prepared = prepare(
            prompt,
            self._tokenizer,
            self._limits,
            params,
            strict_length=self._config.strict_length,
        )
        own = frozenset[int]() if params.ignore_eos else self._eos.ids
        seed = self._seeds.getrandbits(63) if params.seed is None else params.seed
        bad_words = tokenise_bad_words(
            params.bad_words, self._tokenizer, self._limits.vocab_size
        )
        grammar = None
        if params.structured_outputs is not None:
            # Also where the engine compiles it again: what is wrong with it is told
            # here, in the same words, and within the same limits.
            compiled = self._grammars.compile(params.structured_outputs)
            support = self._capabilities.of("structured_outputs").support
            grammar = compiled if support is Support.EMULATED else None
        number = next(self._numbers)
        # One completion tells of the prompt; the others need not compute the same.
        others = params
        if params.n > 1 and params.prompt_logprobs is not None:
            others = attrs.evolve(params, prompt_logprobs=None)
        completions = [
            Completion(
                request=EngineRequest(
                    request_id=f"{number}-{index}",
                    prompt_token_ids=prepared.token_ids,
                    params=others if index else params,
                    stop_token_ids=own | frozenset(params.stop_token_ids),
                    max_new_tokens=prepared.max_new_tokens,
                    seed=seed + index,
                    priority=priority,
                    arrival=number,
                    bad_words_token_ids=bad_words,
                    grammar=grammar,
                    lora_request=adapter,
                ),
                detokenizer=Detokenizer(
                    self._tokenizer,
                    prompt_token_ids=prepared.token_ids,
                    params=params,
                ),
                index=index,
            )
            for index in range(params.n)
        ]
        return RequestHandle(
            request_id=str(number),
            prompt=prepared.text,
            completions=completions,
            num_truncated_tokens=prepared.num_truncated,
            fitted_max_tokens=prepared.max_new_tokens if prepared.fitted else None,
            deadline=deadline,
            on_cancel=self._open_driver().cancel,
        )

    def _check_supported(self, params: SamplingParams) -> None:
        """Refuse what the engine cannot honour, naming who can."""
        limit = self._config.max_logprobs
        for name in ("logprobs", "prompt_logprobs"):
            asked = getattr(params, name) or 0
            if limit != -1 and (asked == -1 or asked > limit):
                raise InvalidParameterError(
                    f"{name}={asked} is more than this generator's max_logprobs="
                    f"{limit}. Ask for fewer, or create the Generator with a larger "
                    "max_logprobs.",
                    parameter=name,
                    value=asked,
                )
        for field in _CHECKED_FIELDS:
            value = getattr(params, field.name)
            capability = self._capabilities.of(field.name)
            if capability.support is Support.UNSUPPORTED and value != field.default:
                raise UnsupportedParameterError(
                    f"The backend {self.backend!r} cannot honour {field.name}={value!r}"
                    f": {capability.reason}. {self._who_can(field.name)}",
                    parameter=field.name,
                    value=value,
                )

    def _check_adapter(self, lora_request: LoRARequest) -> LoRARequest:
        """Return a request for an adapter that is there, on an engine that takes it."""
        capability = self._capabilities.of("lora")
        reason = ""
        if capability.support is Support.UNSUPPORTED:
            reason = f"{capability.reason}. {self._who_can('lora')}"
        elif not self._config.enable_lora:
            reason = "adapters are off. Create the Generator with enable_lora=True."
        if reason:
            raise UnsupportedParameterError(
                f"The backend {self.backend!r} cannot honour lora_request="
                f"{lora_request.lora_name!r} here: {reason}",
                parameter="lora_request",
                value=lora_request,
            )
        return self._adapters.check(lora_request)

    def _who_can(self, field: str) -> str:
        can = [
            backend.name
            for backend in self._registry.by_rank()
            if backend.name != self.backend
            and backend.capabilities.of(field).support is not Support.UNSUPPORTED
        ]
        if not can:
            return "No other installed backend can either."
        return f"These backends can: {', '.join(can)}."

    # ------------------------------------------------------------------ many requests

    def _run(
        self,
        prompts: Sequence[Callable[[], Prompt]],
        params: ParamsLike,
        lora_request: LoRALike,
        *,
        on_error: OnError,
        use_tqdm: UseTqdm,
        priority: PriorityLike,
        timeout_s: float | None,
    ) -> list[Any]:
        batch = self._batch(
            prompts,
            params,
            lora_request,
            on_error=on_error,
            priority=priority,
            timeout_s=timeout_s,
        )
        return batch.run(use_tqdm=use_tqdm)

    def _batch(
        self,
        prompts: Sequence[Callable[[], Prompt]],
        params: ParamsLike,
        lora_request: LoRALike,
        *,
        on_error: OnError,
        priority: PriorityLike,
        timeout_s: float | None,
    ) -> Batch:
        driver = self._open_driver()

        def make(
            make_prompt: Callable[[], Prompt],
            make_params: Callable[[], SamplingParams],
            adapter: LoRARequest | None,
            own_priority: int,
        ) -> RequestHandle:
            return self._make_handle(
                make_prompt(),
                make_params(),
                adapter,
                priority=own_priority,
                timeout_s=timeout_s,
            )

        each = zip(
            prompts,
            self._params_for(params, len(prompts)),
            adapters_for(lora_request, len(prompts)),
            _priorities_for(priority, len(prompts)),
            strict=True,
        )

        return Batch(
            [partial(make, *one) for one in each],
            submit=partial(driver.submit, block=True),
            on_error=on_error,
        )

    def _params_for(
        self, params: ParamsLike, count: int
    ) -> list[Callable[[], SamplingParams]]:
        """Return what makes the params of each prompt; one of a list fails alone."""
        if not isinstance(params, (list, tuple)):
            shared = self._default_params if params is None else _as_params(params)
            return [lambda: shared] * count
        if len(params) != count:
            raise InvalidParameterError(
                f"There are {count} prompts and {len(params)} params. Pass one "
                "SamplingParams for all prompts, or a list with one for each.",
                parameter="params",
                value=len(params),
            )
        return [partial(_as_params, each) for each in params]


_CHECKED_FIELDS = tuple(
    field for field in attrs.fields(SamplingParams) if field.name in SAMPLING_FIELDS
)


def _as_params(params: Any) -> SamplingParams:
    """Return a copy, checked as a whole, that assignments do not reach any more."""
    if not isinstance(params, SamplingParams):
        raise InvalidParameterError(
            f"params must be SamplingParams, got {type(params).__name__}. Write "
            "SamplingParams(temperature=0, max_tokens=100), for example.",
            parameter="params",
            value=params,
        )
    return attrs.evolve(params)


def _priorities_for(priority: PriorityLike, count: int) -> list[int]:
    if not isinstance(priority, (list, tuple)):
        return [_as_priority(priority)] * count
    if len(priority) != count:
        raise InvalidParameterError(
            f"There are {count} prompts and {len(priority)} priorities. Pass one "
            "number for all prompts, or a list with one for each.",
            parameter="priority",
            value=len(priority),
        )
    return [_as_priority(each) for each in priority]


def _as_priority(priority: Any) -> int:
    try:
        return operator.index(priority)
    except TypeError:
        raise InvalidParameterError(
            f"priority must be an integer, got {priority!r}.",
            parameter="priority",
            value=priority,
        ) from None


def _deadline(timeout_s: float | None) -> float | None:
    if timeout_s is None:
        return None
    if not timeout_s > 0:
        raise InvalidParameterError(
            f"timeout_s must be a number of seconds > 0 or None, got {timeout_s!r}.",
            parameter="timeout_s",
            value=timeout_s,
        )
    return time.monotonic() + timeout_s


def _until_closed(handle: RequestHandle) -> Iterator[CompletionDelta]:
    try:
        yield from handle
    finally:
        handle.cancel()


def open_generator(resolved: Resolved) -> Generator:
    """Return a generator for a model and a backend that are resolved already."""
    generator = Generator.__new__(Generator)
    generator._open(resolved)  # noqa: SLF001
    return generator
