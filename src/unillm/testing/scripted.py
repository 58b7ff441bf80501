# SPDX-License-Identifier: Apache-2.0

"""Engines that follow a script and record their calls, without torch.

`ScriptedSlotEngine` is a static batch with slots, and `ScriptedEngine` schedules its
requests itself; `unillm.testing.batches` has the batch of whole runs. They are for
tests of scheduling order and faults. With the script of `unillm.testing.reference` they
serve the bundled model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs
from typing_extensions import override

from ..engines.base import (
    Capabilities,
    Engine,
    EngineLimits,
    EngineOutput,
    EngineRequest,
    TokenLogprobs,
)
from ..engines.slots import (
    PrefillResult,
    PromptChunk,
    Results,
    SlotEngine,
    SlotToken,
)
from ..outputs import FinishReason
from ..scheduling.queue import WaitingQueue

Script = Callable[[EngineRequest, int], int | SlotToken]
"""Returns the n-th new token of a request (from 0), as an id or a `SlotToken`."""

PromptScript = Callable[[EngineRequest], Sequence[TokenLogprobs] | None]
"""Returns the log-probabilities of all prompt tokens but the first, or `None`."""


def no_prompt_logprobs(_: EngineRequest) -> None:
    """Return no log-probabilities."""


def as_token(token: int | SlotToken) -> SlotToken:
    """Return the result of a script as a token."""
    return token if isinstance(token, SlotToken) else SlotToken(token)


@attrs.define(eq=False)
class _Row:
    request: EngineRequest
    prefilled: int = 0
    generated: int = 0
    new_ids: list[int] = attrs.field(factory=list)

    @property
    def ids(self) -> list[int]:
        """The tokens that a row of an engine would hold: all but the newest."""
        prompt = self.request.prompt_token_ids[: self.prefilled]
        return [*prompt, *self.new_ids[:-1]]


class ScriptedSlotEngine(SlotEngine):
    """Slots that follow a script and assert the scheduler's rules.

    Args:
        script: Returns each new token of a request.
        num_slots: Rows.
        max_model_len: Prompt and new tokens that a row holds.
        vocab_size: Ids are below it.
        prompt_script: Log-probabilities of prompts.
        capabilities: Of the engine.
        shortest_prefix: Tokens of the shortest prefix that is taken over; `None` for an
            engine that takes none.
        joins_steps: Whether prompts and steps are one call of `advance`.
        starts_ahead: Whether steps start before the results of the last one are read.

    Attributes:
        calls: All calls, in order: ``("prefill", slots)``, ``("decode", slots)``,
            ``("release", slot)``, ``("close",)``.
    """

    def __init__(
        self,
        script: Script,
        *,
        num_slots: int = 4,
        max_model_len: int = 256,
        vocab_size: int = 1000,
        prompt_script: PromptScript = no_prompt_logprobs,
        capabilities: Capabilities | None = None,
        shortest_prefix: int | None = None,
        joins_steps: bool = False,
        starts_ahead: bool = False,
    ) -> None:
        self._script = script
        self._prompt_script = prompt_script
        if capabilities is not None:
            self.capabilities = capabilities
        self.num_slots = num_slots
        self.max_model_len = max_model_len
        self.vocab_size = vocab_size
        self.shortest_prefix = shortest_prefix
        self.joins_steps = joins_steps
        self.starts_ahead = starts_ahead
        self._rows: dict[int, _Row] = {}
        self._left: dict[int, list[int]] = {}  # ids in the rows of free slots
        self.calls: list[tuple[object, ...]] = []

    @override
    def prefill(self, chunks: Sequence[PromptChunk]) -> PrefillResult:
        self.calls.append(("prefill", tuple(chunk.slot for chunk in chunks)))
        return PrefillResult(
            tokens=[self._write(chunk) for chunk in chunks],
            padding=[0] * len(chunks),
            prompt_logprobs=[self._of_prompt(chunk) for chunk in chunks],
        )

    @override
    def decode(self, slots: Sequence[int]) -> Sequence[SlotToken]:
        self.calls.append(("decode", tuple(slots)))
        return [self._next(self._rows[slot]) for slot in slots]

    @override
    def start(self, chunks: Sequence[PromptChunk], slots: Sequence[int]) -> Results:
        written = (
            self.prefill(chunks) if chunks else PrefillResult(tokens=(), padding=())
        )
        results = written, self.decode(slots) if slots else ()
        return lambda: results

    @override
    def release(self, slot: int) -> None:
        self.calls.append(("release", slot))
        self._left[slot] = self._rows.pop(slot).ids

    @override
    def close(self) -> None:
        self.calls.append(("close",))
        self._rows.clear()

    def _of_prompt(self, chunk: PromptChunk) -> Sequence[TokenLogprobs] | None:
        logprobs = self._prompt_script(chunk.request)
        return None if logprobs is None else logprobs[chunk.start : chunk.end]

    def _write(self, chunk: PromptChunk) -> SlotToken | None:
        if chunk.is_first:
            assert chunk.slot not in self._rows, "a held slot has a new owner"
            self._check_prefix(chunk)
            self._left.pop(chunk.slot, None)
            self._rows[chunk.slot] = _Row(chunk.request, prefilled=chunk.start)
        row = self._rows[chunk.slot]
        assert row.request is chunk.request, "a chunk is in the slot of another request"
        assert row.prefilled == chunk.start, "a gap between two chunks"
        row.prefilled = chunk.end
        return self._next(row) if chunk.is_last else None

    def _check_prefix(self, chunk: PromptChunk) -> None:
        """Assert that a row holds the tokens before a first chunk."""
        if chunk.prefix_slot is None:
            return
        assert self.shortest_prefix is not None, "the engine takes over no prefix"
        assert chunk.start >= self.shortest_prefix, "a prefix that does not pay"
        owner = self._rows.get(chunk.prefix_slot)
        ids = owner.ids if owner else self._left.get(chunk.prefix_slot, [])
        prefix = chunk.request.prompt_token_ids[: chunk.start]
        assert tuple(ids[: chunk.start]) == prefix, "the row holds other tokens"

    def _next(self, row: _Row) -> SlotToken:
        prompt_length = len(row.request.prompt_token_ids)
        assert row.prefilled == prompt_length, (
            "a decode step before the end of the prompt"
        )
        token = as_token(self._script(row.request, row.generated))
        row.generated += 1
        row.new_ids.append(token.token_id)
        assert prompt_length + row.generated <= self.max_model_len, "the row is full"
        return token


class ScriptedEngine(Engine):
    """An engine that schedules its requests itself; a step gives each one token.

    Args:
        script: Returns each new token of a request.
        max_num_seqs: Requests that run at the same time.
        max_model_len: Prompt and new tokens together.
        vocab_size: Ids are below it.
        prompt_script: Log-probabilities of prompts.
        capabilities: Of the engine.

    Attributes:
        calls: All calls, in order: ``("add", id)``, ``("step", ids of running
            requests)``, ``("abort", ids)``, ``("close",)``.
    """

    def __init__(
        self,
        script: Script,
        *,
        max_num_seqs: int = 4,
        max_model_len: int = 256,
        vocab_size: int = 1000,
        prompt_script: PromptScript = no_prompt_logprobs,
        capabilities: Capabilities | None = None,
    ) -> None:
        self._script = script
        self._prompt_script = prompt_script
        self.limits = EngineLimits(
            max_model_len=max_model_len,
            max_num_seqs=max_num_seqs,
            vocab_size=vocab_size,
        )
        if capabilities is not None:
            self.capabilities = capabilities
        self._waiting = WaitingQueue()
        self._running: dict[str, _Row] = {}
        self.calls: list[tuple[object, ...]] = []

    @override
    def add_request(self, request: EngineRequest) -> None:
        self.calls.append(("add", request.request_id))
        assert not self._has(request.request_id), "two unfinished requests have one id"
        self._waiting.push(request)

    @override
    def step(self) -> list[EngineOutput]:
        while self._waiting and len(self._running) < self.limits.max_num_seqs:
            request = self._waiting.pop()
            self._running[request.request_id] = _Row(request)
        self.calls.append(("step", tuple(self._running)))
        outputs = [self._next(row) for row in self._running.values()]
        for output in outputs:
            if output.finish_reason is not None:
                del self._running[output.request_id]
        return outputs

    @override
    def abort(self, request_ids: Iterable[str]) -> None:
        ids = tuple(request_ids)
        self.calls.append(("abort", ids))
        for request_id in ids:
            if not self._waiting.remove(request_id):
                self._running.pop(request_id, None)

    @override
    def has_unfinished(self) -> bool:
        return bool(self._running or self._waiting)

    @override
    def stats(self) -> Mapping[str, Any]:
        return {"running": len(self._running), "waiting": len(self._waiting)}

    @override
    def close(self) -> None:
        self.calls.append(("close",))
        self._running.clear()

    def _has(self, request_id: str) -> bool:
        return request_id in self._running or request_id in self._waiting

    def _next(self, row: _Row) -> EngineOutput:
        request = row.request
        token = as_token(self._script(request, row.generated))
        if token.error is not None:
            return EngineOutput(
                request_id=request.request_id,
                finish_reason="error",
                error=token.error,
            )
        row.generated += 1
        stopped = token.token_id in request.stop_token_ids
        reason: FinishReason | None = "stop" if stopped else None
        if not stopped and row.generated == request.max_new_tokens:
            reason = "length"
        first = row.generated == 1
        return EngineOutput(
            request_id=request.request_id,
            token_ids=(token.token_id,),
            logprobs=None if token.logprobs is None else (token.logprobs,),
            finish_reason=reason,
            stop_token_id=token.token_id if stopped else None,
            prompt_logprobs=self._prompt_script(request) if first else None,
        )
