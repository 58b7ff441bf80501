# SPDX-License-Identifier: Apache-2.0

"""The LLM API as an engine that schedules its requests itself.

``generate`` fails as a whole if one of its prompts does, so each request has its own
``generate_async``. An event loop of the engine awaits the results: it must run when
they are created. Each result is the same, cumulative object, so the new ids are those
after the ids already seen.

TensorRT-LLM gets no more requests than it works on at a time. The others wait here by
priority, which most of its versions do not have, and can be aborted.

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
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs
from typing_extensions import override

from unillm.backend import (
    Capabilities,
    Engine,
    EngineLimits,
    EngineOutput,
    EngineRequest,
    WaitingQueue,
)

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
    ) -> None:
        self.llm = llm
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
            request, self._params_class, vocab_size=self.limits.vocab_size
        )
        output = self.llm.generate_async(
            list(request.prompt_token_ids), params, streaming=True
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
        for count, token_id in enumerate(new, start=1):
            if token_id in request.stop_token_ids:
                self._put(
                    live,
                    token_ids=tuple(new[:count]),
                    finish_reason="stop",
                    stop_token_id=token_id,
                )
                return
        live.seen += len(new)
        if live.seen >= request.max_new_tokens:
            self._put(live, token_ids=tuple(new), finish_reason="length")
        elif output.finished:
            self._put(
                live,
                finish_reason="error",
                error=f"TensorRT-LLM ended it as {completion.finish_reason!r} after "
                f"{live.seen} of {request.max_new_tokens} tokens",
            )
        elif new:
            self._put(live, token_ids=tuple(new))

    @staticmethod
    def _hidden_end(live: _Live, completion: Any, new: list[int]) -> list[int]:
        """Return the id that ended a request, if the result lacks it.

        No source says whether the result keeps the EOS token; it drops other stop ids
        unless asked to keep them.
        """
        if completion.finish_reason != "stop":
            return []
        end_id, _ = _sampling.end_ids(live.request)
        ended_by = completion.stop_reason
        token_id = ended_by if isinstance(ended_by, int) else end_id
        return [] if new and new[-1] == token_id else [token_id]

    def _put(self, live: _Live, **facts: Any) -> None:
        live.over = "finish_reason" in facts
        output = EngineOutput(request_id=live.request.request_id, **facts)
        self._delivered.put((live, output))


def _abort(live: _Live) -> None:
    abort = getattr(live.output, "abort", None)
    if abort is None:  # before 0.19; the request runs on, unread
        log.debug("this TensorRT-LLM cannot abort a request")
        return
    abort()
