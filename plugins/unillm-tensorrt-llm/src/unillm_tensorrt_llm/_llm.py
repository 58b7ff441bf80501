# SPDX-License-Identifier: Apache-2.0

"""The LLM API as an engine that schedules its requests itself.

``generate`` fails as a whole if one of its prompts does, so each request has its own
``generate_async``. An event loop of the engine awaits the results: it must run when
they are created. Each result is the same, cumulative object, so the new ids are those
after the ids already seen.

TensorRT-LLM gets no more requests than it works on at a time. The others wait here by
priority, which most of its versions do not have, and can be aborted. So its own
priorities would order nothing, and are not set.

The engine finds the end itself: the first stop id among the ids ends a request,
whatever ``finish_reason`` and ``stop_reason`` are and whether or not the result keeps
the id.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs
from typing_extensions import override

from unillm.backend import (
    Capabilities,
    Engine,
    EngineLimits,
    EngineOutput,
    EngineRequest,
    TokenLogprobs,
    WaitingQueue,
)
from unillm.errors import InvalidParameterError

from . import _errors, _sampling

log = logging.getLogger("unillm.tensorrt_llm")

CLOSE_TIMEOUT_S = 10.0


@attrs.define(eq=False)
class _Live:
    """A request that has not ended."""

    request: EngineRequest
    output: Any
    """TensorRT-LLM's result, a future."""
    seen: int = 0
    """New tokens so far."""
    over: bool = False
    task: asyncio.Task[None] | None = None
    """Reads the results. The event loop keeps only a weak reference."""


class LlmEngine(Engine):
    """A loaded ``LLM``.

    Args:
        llm: Loaded without a tokenizer; closed with this engine.
        params_class: Its ``SamplingParams``.
        guided_class: Its ``GuidedDecodingParams``, if it was loaded for structured
            outputs.
        lora_class: Its ``LoRARequest``, if it was loaded for adapters.
        limits: The core checks requests against them, so that nothing is lowered.
        capabilities: Fields that this version does not have.
        release: Called by `close`.

    Attributes:
        llm: TensorRT-LLM's object.
    """

    def __init__(
        self,
        llm: Any,
        params_class: Any,
        *,
        limits: EngineLimits,
        capabilities: Capabilities,
        release: Callable[[], None],
        guided_class: Any = None,
        lora_class: Any = None,
    ) -> None:
        self.llm = llm
        self._guided_class = guided_class
        self._lora_class = lora_class
        self._release = release
        self._params_class = params_class
        self.limits = limits
        self.capabilities = capabilities
        self._waiting = WaitingQueue()
        self._live: dict[str, _Live] = {}
        self._delivered: queue.SimpleQueue[tuple[_Live, EngineOutput]] = (
            queue.SimpleQueue()
        )
        self._closed = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="unillm-tensorrt-llm", daemon=True
        )
        self._thread.start()

    # ------------------------------------------------------------ the Engine contract

    @override
    def add_request(self, request: EngineRequest) -> None:
        if reason := _sampling.impossible(request):
            raise InvalidParameterError(
                f"{reason}. Allow another one.",
                parameter="allowed_token_ids",
                value=request.params.allowed_token_ids,
            )
        self._waiting.push(request)

    @override
    def step(self) -> list[EngineOutput]:
        refused = self._submit()
        if refused or not self._live:
            return refused
        delivered = [self._delivered.get()]
        with contextlib.suppress(queue.Empty):
            while True:
                delivered.append(self._delivered.get_nowait())
        outputs = []
        for live, output in delivered:
            # Outputs of a request that was aborted or has ended are dropped.
            if self._live.get(output.request_id) is not live:
                continue
            if output.finish_reason is not None:
                del self._live[output.request_id]
            outputs.append(output)
        return outputs

    @override
    def abort(self, request_ids: Iterable[str]) -> None:
        for request_id in request_ids:
            if self._waiting.remove(request_id):
                continue
            live = self._live.pop(request_id, None)
            if live is not None:
                self._loop.call_soon_threadsafe(_abort, live)

    @override
    def has_unfinished(self) -> bool:
        return bool(self._live or self._waiting)

    @override
    def stats(self) -> Mapping[str, Any]:
        return {"running": len(self._live), "waiting": len(self._waiting)}

    @override
    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self.abort(list(self._live))
        _errors.shut_down(self.llm)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_TIMEOUT_S)
        if not self._thread.is_alive():
            self._loop.close()
        self._release()

    def _submit(self) -> list[EngineOutput]:
        """Start waiting requests while rows are free; return the refused ones."""
        refused = []
        while self._waiting and len(self._live) < self.limits.max_num_seqs:
            request = self._waiting.pop()
            begun = asyncio.run_coroutine_threadsafe(self._begin(request), self._loop)
            try:
                self._live[request.request_id] = begun.result()
            except Exception as error:  # noqa: BLE001 - fails alone
                refused.append(
                    EngineOutput(
                        request_id=request.request_id,
                        finish_reason="error",
                        error="TensorRT-LLM refused the request: "
                        f"{type(error).__name__}: {error}",
                    )
                )
        return refused

    # ----------------------------------------------------------------- on the loop

    async def _begin(self, request: EngineRequest) -> _Live:
        """Submit a request. The call is synchronous but needs a running loop."""
        params = _sampling.llm_params(
            request,
            self._params_class,
            vocab_size=self.limits.vocab_size,
            guided_class=self._guided_class,
        )
        adapter: dict[str, Any] = {}
        if (own := request.lora_request) is not None:
            adapter["lora_request"] = self._lora_class(
                own.lora_name, own.lora_int_id, own.lora_path
            )
        output = self.llm.generate_async(
            list(request.prompt_token_ids), params, streaming=True, **adapter
        )
        live = _Live(request, output)
        live.task = self._loop.create_task(self._follow(live))
        return live

    async def _follow(self, live: _Live) -> None:
        """Read the results of a request until its end."""
        try:
            async for output in live.output:
                self._deliver(live, output)
                if live.over:
                    break
        except Exception as error:  # noqa: BLE001 - fails alone
            self._put(
                live, finish_reason="error", error=f"{type(error).__name__}: {error}"
            )
        if not live.over:
            self._put(
                live,
                finish_reason="error",
                error="its stream ended without a finish reason",
            )
        if not live.output.finished:
            _abort(live)  # leaving the stream does not abort

    def _deliver(self, live: _Live, output: Any) -> None:
        """Queue the new ids of a cumulative result."""
        [completion] = output.outputs
        request = live.request
        new = list(completion.token_ids[live.seen :])
        if output.finished:
            new += self._hidden_end(live, completion, new)
        new = new[: request.max_new_tokens - live.seen]
        end: dict[str, Any] = {}
        for count, token_id in enumerate(new, start=1):
            if token_id in request.stop_token_ids:
                new = new[:count]
                end = {"finish_reason": "stop", "stop_token_id": token_id}
                break
        if not end and live.seen + len(new) >= request.max_new_tokens:
            end = {"finish_reason": "length"}
        elif not end and output.finished:
            reason = getattr(completion, "finish_reason", None)
            end = {
                "finish_reason": "error",
                "error": f"TensorRT-LLM ended it as {reason!r} after "
                f"{live.seen + len(new)} of {request.max_new_tokens} tokens",
            }
        if new or end:
            self._put(live, **self._news(live, output, new), **end)
        live.seen += len(new)

    def _news(self, live: _Live, output: Any, new: list[int]) -> dict[str, Any]:
        """Return the fields of an output with these new ids."""
        [completion] = output.outputs
        params = live.request.params
        news: dict[str, Any] = {
            "token_ids": tuple(new),
            "num_cached_tokens": getattr(output, "cached_tokens", 0) or 0,
        }
        if params.logprobs is not None:
            entries = completion.logprobs[live.seen : live.seen + len(new)]
            news["logprobs"] = _read_logprobs(new, entries, params.logprobs)
        if params.prompt_logprobs is not None and new and not live.seen:
            prompt = live.request.prompt_token_ids
            # The last entry is that of the first new token.
            news["prompt_logprobs"] = _read_logprobs(
                prompt[1:], completion.prompt_logprobs[:-1], params.prompt_logprobs
            )
        return news

    @staticmethod
    def _hidden_end(live: _Live, completion: Any, new: list[int]) -> list[int]:
        """Return the id that ended a request, if the result lacks it.

        The C++ decoder hides its `end_id`, TorchSampler shows it. Other stop ids stay,
        because the request asks for them. Up to 0.13 a result has no reason: a short
        one has ended by its `end_id`.
        """
        end_id, _ = _sampling.end_ids(live.request)
        short = live.seen + len(new) < live.request.max_new_tokens
        reason = getattr(completion, "finish_reason", "stop" if short else "length")
        if reason != "stop" or end_id == _sampling.NO_END:
            return []
        if not live.request.stop_token_ids.isdisjoint(new):
            return []
        ended_by = getattr(completion, "stop_reason", None)
        return [ended_by if isinstance(ended_by, int) else end_id]

    def _put(self, live: _Live, **facts: Any) -> None:
        live.over = "finish_reason" in facts
        output = EngineOutput(request_id=live.request.request_id, **facts)
        self._delivered.put((live, output))


def _read_logprobs(
    token_ids: Sequence[int], entries: Sequence[Any], count: int
) -> tuple[TokenLogprobs, ...]:
    """Return log-probabilities of TensorRT-LLM's dicts of ids, one for each token.

    Raises:
        ValueError: There are more or fewer dicts than tokens.
    """
    found = []
    for token_id, entry in zip(token_ids, entries, strict=True):
        best = sorted(entry.items(), key=lambda item: item[1].rank)
        best = best[: len(entry) if count == -1 else count]
        found.append(
            TokenLogprobs(
                logprob=entry[token_id].logprob,
                rank=entry[token_id].rank,
                top_ids=tuple(each for each, _ in best),
                top_logprobs=tuple(at.logprob for _, at in best),
            )
        )
    return tuple(found)


def _abort(live: _Live) -> None:
    abort = getattr(live.output, "abort", None)
    if abort is None:  # before 0.19; the request runs on, unread
        log.debug("this TensorRT-LLM cannot abort a request")
        return
    abort()
