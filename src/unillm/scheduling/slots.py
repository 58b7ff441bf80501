# SPDX-License-Identifier: Apache-2.0

"""Continuous batching over fixed slots: a freed slot is refilled before the next step.

`SlotEngine` is what a backend implements: a fixed number of rows, a prompt written
into one of them without disturbing the others, one token for any of them.
`SlotScheduler` turns it into an `Engine`: it decides, the slot engine computes. The
scheduler never sees a tensor and the slot engine never sees the queue.

Invariants, checked by `SlotScheduler.check`:

- a slot belongs to at most one live request, and a live request has one slot;
- free and held slots together are exactly ``range(num_slots)``;
- a request waits or runs, never both;
- at a decode step no slot is free while a request waits, unless the step's budget of
  prompt tokens was spent, or its adapter has no place beside those of the running ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs
from typing_extensions import override

from ..engines.base import (
    Engine,
    EngineLimits,
    EngineOutput,
    EngineRequest,
    TokenLogprobs,
)
from ..engines.slots import (
    DEFAULT_MAX_NUM_BATCHED_TOKENS,
    PrefillResult,
    PromptChunk,
    SlotEngine,
    SlotToken,
)
from ..errors import ConfigError
from ..lora import LoRARequest
from ..outputs import FinishReason, SlotMetrics
from .queue import WaitingQueue

OVERTAKES_PER_SLOT = 16
"""How many requests, for each slot, may start before one whose adapter has no place.
After that its adapter is the next that finds one."""


@attrs.define(eq=False)
class _Running:
    """A request that has a slot."""

    request: EngineRequest
    slot: int
    waited_steps: int
    refilled: bool
    prefilled: int = 0
    generated: int = 0
    prefill_chunks: int = 0
    prefill_padding: int = 0
    decode_steps: int = 0
    prompt_logprobs: list[TokenLogprobs] | None = None
    """Until they are told with the first new token."""

    @property
    def in_prompt(self) -> bool:
        return self.prefilled < len(self.request.prompt_token_ids)

    @property
    def rank(self) -> tuple[int, int]:
        """What comes first: priority, then arrival."""
        return self.request.priority, self.request.arrival

    def metrics(self) -> SlotMetrics:
        return SlotMetrics(
            waited_steps=self.waited_steps,
            prefill_chunks=self.prefill_chunks,
            prefill_padding=self.prefill_padding,
            decode_steps=self.decode_steps,
            refilled=self.refilled,
        )


@attrs.define(kw_only=True)
class SlotCounters:
    """What the slots did since the scheduler was made."""

    steps: int = 0
    """Calls of `SlotScheduler.step` that had work."""
    decode_steps: int = 0
    slot_steps: int = 0
    """Decode steps times slots, which is what could have been used."""
    occupied_slot_steps: int = 0
    """Slots that got a token in a decode step, summed over the steps."""
    refills: int = 0
    """Requests that took over a slot while others were running."""
    admitted: int = 0
    finished: int = 0
    aborted: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    """Prompt tokens computed."""
    prefill_padding: int = 0
    """Padding positions computed beside them."""
    generated_tokens: int = 0


class SlotScheduler(Engine):
    """An `Engine` over a `SlotEngine`: admits, refills, decodes and retires.

    Args:
        engine: Computes. The scheduler closes it.
        max_num_batched_tokens: Prompt tokens computed in one step. A longer prompt is
            written in several chunks, so that the rows which decode go on meanwhile.
    """

    def __init__(
        self,
        engine: SlotEngine,
        *,
        max_num_batched_tokens: int = DEFAULT_MAX_NUM_BATCHED_TOKENS,
    ) -> None:
        if max_num_batched_tokens < 1:
            raise ConfigError(
                f"max_num_batched_tokens must be ≥ 1, got {max_num_batched_tokens}."
            )
        self._engine = engine
        self._budget = max_num_batched_tokens
        self._waiting = WaitingQueue()
        self._arrived_at: dict[str, int] = {}
        self._running: dict[str, _Running] = {}
        self._free = list(reversed(range(engine.num_slots)))  # popped from the end
        self._used: set[int] = set()
        self._overtakes = 0  # of the request whose adapter has no place
        self.counters = SlotCounters()
        self.limits = EngineLimits(
            max_model_len=engine.max_model_len,
            max_num_seqs=engine.num_slots,
            vocab_size=engine.vocab_size,
        )
        self.capabilities = engine.capabilities

    # ------------------------------------------------------------ the Engine contract

    @override
    def add_request(self, request: EngineRequest) -> None:
        self._engine.check_request(request)
        self._waiting.push(request)
        self._arrived_at[request.request_id] = self.counters.steps

    @override
    def abort(self, request_ids: Iterable[str]) -> None:
        for request_id in request_ids:
            if self._waiting.remove(request_id):
                del self._arrived_at[request_id]
                self.counters.aborted += 1
            elif running := self._running.get(request_id):
                self._free_slot(running)
                self.counters.aborted += 1

    @override
    def has_unfinished(self) -> bool:
        return bool(self._running or self._waiting)

    @override
    def step(self) -> list[EngineOutput]:
        if not self.has_unfinished():
            return []
        self.counters.steps += 1
        outputs = self._fill()
        outputs += self._decode()
        return outputs

    @override
    def stats(self) -> Mapping[str, Any]:
        counters = attrs.asdict(self.counters)
        return {
            "num_slots": self._engine.num_slots,
            "running": len(self._running),
            "waiting": len(self._waiting),
            **counters,
        }

    @override
    def close(self) -> None:
        self._engine.close()

    def check(self) -> None:
        """Raise `AssertionError` if an invariant of this module does not hold."""
        held = [running.slot for running in self._running.values()]
        assert sorted(held + self._free) == list(range(self._engine.num_slots))
        assert not any(request_id in self._waiting for request_id in self._running)
        assert len(self._arrived_at) == len(self._waiting)

    # -------------------------------------------------------------- admit and refill

    def _fill(self) -> list[EngineOutput]:
        """Admit and prefill until the slots are full or the budget is spent.

        Repeats, because a request of a single token gives its slot back at once.
        """
        outputs: list[EngineOutput] = []
        budget = self._budget
        while budget > 0:
            self._admit(budget)
            chunks = self._next_chunks(budget)
            if not chunks:
                break
            budget -= sum(chunk.end - chunk.start for chunk in chunks)
            outputs += self._prefill(chunks)
        return outputs

    def _admit(self, budget: int) -> None:
        """Give free slots to waiting requests, as far as the budget has work for them.

        A request that could not start in this step stays in the queue, where a more
        urgent one can still overtake it.
        """
        budget -= sum(
            len(running.request.prompt_token_ids) - running.prefilled
            for running in self._running.values()
        )
        held_back: list[EngineRequest] = []
        while self._free and budget > 0:
            request = self._next(held_back)
            if request is None:
                break
            budget -= len(request.prompt_token_ids)
            slot = self._free.pop()
            refilled = slot in self._used and bool(self._running)
            self._used.add(slot)
            arrived_at = self._arrived_at.pop(request.request_id)
            self._running[request.request_id] = _Running(
                request=request,
                slot=slot,
                # Admission is in the step after the arrival at the soonest.
                waited_steps=self.counters.steps - arrived_at - 1,
                refilled=refilled,
            )
            self.counters.admitted += 1
            self.counters.refills += refilled
        for request in held_back:
            self._waiting.push(request)

    def _next(self, held_back: list[EngineRequest]) -> EngineRequest | None:
        """Take the most urgent request whose adapter has a place.

        Those before it are put into *held_back*; neither they nor the times that they
        are overtaken are more than `OVERTAKES_PER_SLOT`.
        """
        limit = OVERTAKES_PER_SLOT * self._engine.num_slots
        while self._waiting and len(held_back) < limit:
            if held_back and self._overtakes >= limit:
                break
            request = self._waiting.pop()
            if self._has_place_for(request.lora_request):
                self._overtakes = self._overtakes + 1 if held_back else 0
                return request
            held_back.append(request)
        return None

    def _has_place_for(self, adapter: LoRARequest | None) -> bool:
        """Whether a row may have *adapter* beside those of the running requests."""
        limit = self._engine.max_loras
        if adapter is None or limit is None:
            return True
        running = {each.request.lora_request for each in self._running.values()}
        return adapter in running or len(running - {None}) < limit

    def _next_chunks(self, budget: int) -> list[PromptChunk]:
        """What to prefill with *budget* tokens: the most urgent prompts first."""
        in_prompt = [r for r in self._running.values() if r.in_prompt]
        chunks = []
        for running in sorted(in_prompt, key=lambda r: r.rank):
            if budget <= 0:
                break
            left = len(running.request.prompt_token_ids) - running.prefilled
            size = min(left, budget) if self._engine.splits_prompts else left
            budget -= size
            chunks.append(
                PromptChunk(
                    slot=running.slot,
                    request=running.request,
                    start=running.prefilled,
                    end=running.prefilled + size,
                )
            )
        return chunks

    def _prefill(self, chunks: Sequence[PromptChunk]) -> list[EngineOutput]:
        result = self._engine.prefill(chunks)
        self._note_prompt_logprobs(chunks, result)
        outputs = []
        for chunk, token, padding in zip(
            chunks, result.tokens, result.padding, strict=True
        ):
            running = self._running[chunk.request.request_id]
            running.prefilled = chunk.end
            running.prefill_chunks += 1
            running.prefill_padding += padding
            self.counters.prompt_tokens += chunk.end - chunk.start
            self.counters.prefill_padding += padding
            if token is not None:
                outputs.append(self._accept(running, token))
        return outputs

    def _note_prompt_logprobs(
        self, chunks: Sequence[PromptChunk], result: PrefillResult
    ) -> None:
        """Keep what the chunks say of their prompts until the first new token."""
        for chunk, logprobs in zip(chunks, result.prompt_logprobs, strict=False):
            if logprobs is not None:
                running = self._running[chunk.request.request_id]
                running.prompt_logprobs = [*(running.prompt_logprobs or ()), *logprobs]

    # ------------------------------------------------------------- decode and retire

    def _decode(self) -> list[EngineOutput]:
        live = [r for r in self._running.values() if not r.in_prompt]
        if not live:
            return []
        self.counters.decode_steps += 1
        self.counters.slot_steps += self._engine.num_slots
        self.counters.occupied_slot_steps += len(live)
        tokens = self._engine.decode([running.slot for running in live])
        outputs = []
        for running, token in zip(live, tokens, strict=True):
            running.decode_steps += 1
            outputs.append(self._accept(running, token))
        return outputs

    def _accept(self, running: _Running, token: SlotToken) -> EngineOutput:
        """Turn a slot's token into an output, and retire the request if it ends."""
        request_id = running.request.request_id
        if token.error is not None:
            self._free_slot(running)
            self.counters.failed += 1
            return EngineOutput(
                request_id=request_id,
                finish_reason="error",
                error=token.error,
                slots=running.metrics(),
            )
        running.generated += 1
        self.counters.generated_tokens += 1
        stopped = token.token_id in running.request.stop_token_ids
        reason = self._finish_reason(running, stopped=stopped)
        prompt_logprobs, running.prompt_logprobs = running.prompt_logprobs, None
        if reason is not None:
            self._free_slot(running)
            self.counters.finished += 1
        return EngineOutput(
            request_id=request_id,
            token_ids=(token.token_id,),
            logprobs=None if token.logprobs is None else (token.logprobs,),
            finish_reason=reason,
            stop_token_id=token.token_id if stopped else None,
            slots=running.metrics(),
            prompt_logprobs=prompt_logprobs,
        )

    @staticmethod
    def _finish_reason(running: _Running, *, stopped: bool) -> FinishReason | None:
        if stopped:
            return "stop"
        if running.generated >= running.request.max_new_tokens:
            return "length"
        return None

    def _free_slot(self, running: _Running) -> None:
        del self._running[running.request.request_id]
        self._engine.release(running.slot)
        self._free.append(running.slot)
