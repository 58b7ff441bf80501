# SPDX-License-Identifier: Apache-2.0

"""`RequestMethods`: methods of `Generator` for single requests and lazy prompts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, overload

from typing_extensions import Unpack

from ..errors import GeneratorClosedError
from ..fields import as_positive
from ..lora import LoRARequest
from ..outputs import RequestOutput
from ..params import SamplingParams
from ..text.containers import is_lazy
from ..text.prompts import Conversation, PromptType, as_prompts
from .arguments import LazyOptions, OnError
from .calls import check_on_error
from .chat_prompts import ChatPrompt, template_of
from .driver import Driver
from .failures import CLOSED
from .handle import RequestHandle
from .lazy_calls import LazyCall
from .streams import AsyncDeltaStream, DeltaStream
from .text_methods import TextMethods

if TYPE_CHECKING:
    from .cut_notice import CutNotice

_MIN_PENDING = 64
"""Fewest requests under way in a lazy call, unless the caller says otherwise."""


class RequestMethods(TextMethods):
    """Requests one by one: handles, streams, and iterators over lazy prompts."""

    _driver: Driver | None
    _notice: CutNotice

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
    ) -> DeltaStream:
        """Generate for one prompt and yield new text as soon as it is final.

        Arguments and errors are those of `submit`: a request that is refused raises at
        the call, one that fails later while iterating. Leaving the loop cancels the
        request.
        """
        handle = self.submit(
            prompt,
            params,
            lora_request=lora_request,
            priority=priority,
            timeout_s=timeout_s,
        )
        return DeltaStream(handle, self._notice)

    def astream(
        self,
        prompt: PromptType,
        params: SamplingParams | None = None,
        *,
        lora_request: LoRARequest | None = None,
        priority: int = 0,
        timeout_s: float | None = None,
    ) -> AsyncDeltaStream:
        """Yield new text in an event loop; a slow reader never slows the engine.

        Arguments and errors are those of `submit`, which the call makes at once: a
        handler of web requests can answer a refused one before it begins a response.
        Leaving the loop cancels the request as soon as Python collects the stream;
        `contextlib.aclosing` closes it at once.
        """
        handle = self.submit(
            prompt,
            params,
            lora_request=lora_request,
            priority=priority,
            timeout_s=timeout_s,
        )
        return AsyncDeltaStream(handle, self._notice)

    def chat_stream(
        self,
        messages: Conversation,
        params: SamplingParams | None = None,
        *,
        lora_request: LoRARequest | None = None,
        chat_template: str | None = None,
        chat_template_content_format: str = "auto",
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Any] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        priority: int = 0,
        timeout_s: float | None = None,
    ) -> DeltaStream:
        """Answer one conversation and yield new text as soon as it is final.

        Args:
            messages: A list of ``{"role": …, "content": …}``.
            params: `None` for the model's own defaults.
            lora_request: An adapter, or `None` for the model alone.
            chat_template: As for `chat`, like the five arguments that follow.
            chat_template_content_format: "auto", "string" or "openai", as in vLLM.
            add_generation_prompt: End the prompt where the assistant begins.
            continue_final_message: Continue the last message.
            tools: Functions or their JSON schemas, for templates that offer tools.
            chat_template_kwargs: Further variables for the template.
            priority: Lower is sooner.
            timeout_s: Seconds that the request has.

        Raises:
            ChatTemplateError: There is no template, or it refused the messages.
            RequestError: At the call if the request is refused, else while iterating.
        """
        prompt = ChatPrompt.of(messages, template_of(locals()))
        handle = self.submit(
            prompt,  # type: ignore[arg-type]
            params,
            lora_request=lora_request,
            priority=priority,
            timeout_s=timeout_s,
        )
        return DeltaStream(handle, self._notice)

    def achat_stream(
        self,
        messages: Conversation,
        params: SamplingParams | None = None,
        *,
        lora_request: LoRARequest | None = None,
        chat_template: str | None = None,
        chat_template_content_format: str = "auto",
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Any] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        priority: int = 0,
        timeout_s: float | None = None,
    ) -> AsyncDeltaStream:
        """Answer one conversation in an event loop, and yield new text.

        Arguments and errors are those of `chat_stream`; the call submits the request,
        and closing the stream cancels it, as for `astream`.
        """
        prompt = ChatPrompt.of(messages, template_of(locals()))
        handle = self.submit(
            prompt,  # type: ignore[arg-type]
            params,
            lora_request=lora_request,
            priority=priority,
            timeout_s=timeout_s,
        )
        return AsyncDeltaStream(handle, self._notice)

    # ------------------------------------------------------------------- lazy prompts

    @overload
    def generate_iter(
        self,
        prompts: Iterable[PromptType],
        params: SamplingParams | Iterable[SamplingParams] | None = None,
        *,
        on_error: Literal["raise"] = "raise",
        **options: Unpack[LazyOptions],
    ) -> Iterator[RequestOutput]: ...

    @overload
    def generate_iter(
        self,
        prompts: Iterable[PromptType],
        params: SamplingParams | Iterable[SamplingParams] | None = None,
        *,
        on_error: Literal["return"],
        **options: Unpack[LazyOptions],
    ) -> Iterator[RequestOutput | Exception]: ...

    def generate_iter(
        self,
        prompts: Iterable[PromptType],
        params: SamplingParams | Iterable[SamplingParams] | None = None,
        *,
        on_error: OnError = "raise",
        lora_request: LoRARequest | None = None,
        priority: int = 0,
        timeout_s: float | None = None,
        max_pending: int | None = None,
    ) -> Iterator[RequestOutput | Exception]:
        """Yield an output for each prompt of an iterable, in the order of the prompts.

        Prompts are read as answers are taken, so that memory is bounded however many
        there are. They are read in the caller's thread: an iterable that waits for its
        next prompt holds back answers that are ready. Leaving the loop cancels what is
        under way.

        Args:
            prompts: Prompts in any form that `generate` takes; may be a generator.
            params: One `SamplingParams` for all prompts, an iterable with one for each,
                or `None` for the model's own defaults.
            on_error: "raise" the first error, which ends the loop and cancels what is
                under way; or "return" each error in the place of its output.
            lora_request: An adapter for all prompts, or `None` for the model alone.
            priority: Lower is sooner.
            timeout_s: Seconds that each request has, from when its prompt was read.
            max_pending: Requests at most that are started and not yet yielded; `None`
                for four times as many as the engine computes at a time, at least 64.

        Raises:
            InvalidParameterError: An argument has a wrong value.
            RequestError: A request failed; `prompt_index` counts its prompt from 0.
            EngineDeadError: The engine died.
            GeneratorClosedError: The generator is closed.
        """
        call = self._lazy_call(
            prompts, params, on_error, lora_request, priority, timeout_s, max_pending
        )
        return call.in_order()

    @overload
    def as_completed(
        self,
        prompts: Iterable[PromptType],
        params: SamplingParams | Iterable[SamplingParams] | None = None,
        *,
        on_error: Literal["raise"] = "raise",
        **options: Unpack[LazyOptions],
    ) -> Iterator[tuple[int, RequestOutput]]: ...

    @overload
    def as_completed(
        self,
        prompts: Iterable[PromptType],
        params: SamplingParams | Iterable[SamplingParams] | None = None,
        *,
        on_error: Literal["return"],
        **options: Unpack[LazyOptions],
    ) -> Iterator[tuple[int, RequestOutput | Exception]]: ...

    def as_completed(
        self,
        prompts: Iterable[PromptType],
        params: SamplingParams | Iterable[SamplingParams] | None = None,
        *,
        on_error: OnError = "raise",
        lora_request: LoRARequest | None = None,
        priority: int = 0,
        timeout_s: float | None = None,
        max_pending: int | None = None,
    ) -> Iterator[tuple[int, RequestOutput | Exception]]:
        """Yield the index of a prompt, from 0, and its output as soon as it has one.

        Arguments and errors are those of `generate_iter`.
        """
        call = self._lazy_call(
            prompts, params, on_error, lora_request, priority, timeout_s, max_pending
        )
        return call.as_completed()

    def _lazy_call(  # noqa: PLR0917 - the arguments of two methods, in their order
        self,
        prompts: Iterable[PromptType],
        params: SamplingParams | Iterable[SamplingParams] | None,
        on_error: OnError,
        lora_request: LoRARequest | None,
        priority: int,
        timeout_s: float | None,
        max_pending: int | None,
    ) -> LazyCall:
        driver = self._open_driver()
        check_on_error(on_error)
        if max_pending is None:
            max_pending = max(_MIN_PENDING, 4 * self._requests.limits.max_num_seqs)
        makers = self._requests.lazy_makers(
            prompts if is_lazy(prompts) else as_prompts(prompts),
            params,
            lora_request,
            priority,
            timeout_s,
        )
        return LazyCall(
            makers,
            submit=partial(driver.submit, block=True),
            notice=self._notice,
            max_pending=as_positive("max_pending", max_pending),
            on_error=on_error,
        )

    def _open_driver(self) -> Driver:
        if self._driver is None:
            raise GeneratorClosedError(CLOSED)
        self._driver.owner.check()
        return self._driver
