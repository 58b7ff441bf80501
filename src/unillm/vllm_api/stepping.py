# SPDX-License-Identifier: Apache-2.0

"""`SteppedEngine`: requests that a program adds and steps itself.

A `Generator` steps its engine on a thread of its own; `SteppedEngine.step` waits for
news.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from typing_extensions import Self

from ..errors import InvalidParameterError
from ..generator import Generator
from ..lora import LoRARequest
from ..outputs import RequestOutput
from ..params import SamplingParams
from ..text.prompts import PromptType
from .engine_view import CacheConfig, ModelConfig, no_attribute
from .foreign import taken_adapters, taken_params
from .structures import with_options
from .token_texts import TokenTexts

if TYPE_CHECKING:
    from .. import RequestHandle

_POLL_S = 0.001


class SteppedEngine:
    """vLLM's engine over a `Generator`: facts to read, requests to add and to step.

    `LLM.llm_engine` is one. Whatever would reach into the engine is an `AttributeError`
    that names the calls of `Generator`.

    Args:
        generator: Has the engine.
        json_options: Fields of `StructuredOutputs` for the JSON of every request.
    """

    def __init__(
        self, generator: Generator, *, json_options: Mapping[str, Any] | None = None
    ) -> None:
        self._generator = generator
        self._json_options = json_options or {}
        self._texts = TokenTexts(generator.get_tokenizer())
        self._live: dict[str, RequestHandle] = {}
        self._seen: dict[str, int] = {}
        """New tokens that `step` has returned, for each request."""

    # --------------------------------------------------------------------------- facts

    @property
    def model_config(self) -> ModelConfig:
        """Facts about the model."""
        return ModelConfig(self._generator)

    @property
    def cache_config(self) -> CacheConfig:
        """Facts about the cache."""
        return CacheConfig(self._generator)

    @property
    def vllm_config(self) -> Self:
        """This object, for ``llm_engine.vllm_config.model_config``."""
        return self

    @property
    def tokenizer(self) -> Any:
        """The tokenizer object itself."""
        return self._generator.get_tokenizer()

    def get_tokenizer(self) -> Any:
        """Return the tokenizer object itself."""
        return self._generator.get_tokenizer()

    # ------------------------------------------------------------------------ requests

    def add_request(
        self,
        request_id: str,
        prompt: PromptType,
        params: SamplingParams,
        *,
        lora_request: LoRARequest | None = None,
        priority: int = 0,
        **ignored: Any,
    ) -> str:
        """Start a request, and return its id.

        Args:
            request_id: A name that no unfinished request has.
            prompt: One prompt in any form that `LLM.generate` takes.
            params: Its params; those of an installed vLLM are taken.
            lora_request: An adapter, or `None` for the model alone.
            priority: Lower is sooner.
            ignored: ``arrival_time``, ``trace_headers`` and ``tokenization_kwargs``
                may be `None`.

        Raises:
            RequestError: The request is refused.
        """
        if given := [name for name, value in ignored.items() if value is not None]:
            raise InvalidParameterError(
                f"add_request cannot honour {', '.join(given)}. Leave them out.",
                parameter=given[0],
                value=ignored[given[0]],
            )
        if request_id in self._live:
            raise InvalidParameterError(
                f"request_id={request_id!r} is that of an unfinished request. Give "
                "each request an id of its own.",
                parameter="request_id",
                value=request_id,
            )
        params = taken_params(params)
        self._live[request_id] = self._generator.submit(
            prompt,
            with_options(params, self._json_options),
            lora_request=taken_adapters(lora_request),
            priority=priority,
        )
        self._seen[request_id] = 0
        return request_id

    def has_unfinished_requests(self) -> bool:
        """Return whether `step` will return more outputs."""
        return bool(self._live)

    def get_num_unfinished_requests(self) -> int:
        """Return the number of requests that are not finished."""
        return len(self._live)

    def step(self) -> list[RequestOutput]:
        """Wait until a request has new tokens or ends, and return all that have.

        Each output holds all tokens so far. Without requests the list is empty.

        Raises:
            RequestError: A request failed; it is no longer among the unfinished ones,
                and the next step has the outputs of the others.
            EngineDeadError: The engine died.
        """
        while self._live:
            if outputs := [*self._news()]:
                self._texts.write(outputs)
                return outputs
            time.sleep(_POLL_S)
        return []

    def _news(self) -> Iterable[RequestOutput]:
        done = {name for name, handle in self._live.items() if handle.done()}
        for request_id in done:  # before any output, which would be lost
            try:
                self._live[request_id].result()
            except Exception:  # noqa: PERF203 - each on its own
                self._forget(request_id)
                raise
        for request_id, handle in tuple(self._live.items()):
            tokens = sum(len(each.token_ids) for each in handle.completions)
            if request_id not in done and tokens <= self._seen[request_id]:
                continue
            output = handle.output()
            if request_id in done:
                self._forget(request_id)
            elif output.finished:  # meanwhile: it is the next step's, once
                continue
            else:
                self._seen[request_id] = tokens
            output.request_id = request_id
            yield output

    def _forget(self, request_id: str) -> RequestHandle | None:
        self._seen.pop(request_id, None)
        return self._live.pop(request_id, None)

    def abort_request(self, request_ids: str | Iterable[str]) -> None:
        """Cancel requests, which `step` no longer returns; ignore other ids."""
        ids = [request_ids] if isinstance(request_ids, str) else request_ids
        for request_id in ids:
            if handle := self._forget(request_id):
                handle.cancel()

    if not TYPE_CHECKING:  # a type checker would accept every name

        def __getattr__(self, name: str) -> Any:
            raise no_attribute("llm.llm_engine", name, self)
