# SPDX-License-Identifier: Apache-2.0

"""`SlotScheduler`: continuous batching over fixed slots.

The scheduler decides and the `SlotEngine` computes: the scheduler never sees a tensor,
and the engine never sees the queue. A step refills each slot that the last one freed.

Invariants, checked by `SlotScheduler.check`:

- a slot belongs to at most one live request, and a running request has one slot;
- free and held slots together are exactly ``range(num_slots)``;
- a request waits or runs, never both;
- in a decode step no slot is free while a request waits, unless the step has spent its
  budget of prompt tokens, or the waiting request's adapter does not fit beside those of
  the running ones. Where the engine joins prompts and steps, a slot may also have been
  freed by the last prompts, or wait for the prefix that they write.
"""

from __future__ import annotations

from collections import deque
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
    Results,
    SlotEngine,
    SlotToken,
)
from ..errors import ConfigError
from ..outputs import FinishReason, SlotMetrics
from .adapter_gate import AdapterGate
from .prefixes import Prefix, RowContents
from .queue import WaitingQueue, shrink


@attrs.define(eq=False)
class _Running:
    """A request that has a slot."""

    request: EngineRequest
    slot: int
    waited_steps: int
    refilled: bool
    prefix: Prefix
    prefilled: int
    started: int = 0
    """New tokens that steps have computed, or compute now."""
    generated: int = 0
    prefill_chunks: int = 0
    prefill_padding: int = 0
    decode_steps: int = 0
    prompt_logprobs: list[TokenLogprobs] | None = None
    """Those of the chunks so far, kept until the first new token."""

    @property
    def unwritten(self) -> int:
        """Prompt tokens that are not in the slot yet."""
        return len(self.request.prompt_token_ids) - self.prefilled

    @property
    def needs_tokens(self) -> bool:
        """Whether its next token cannot be chosen before the host has the last one."""
        request = self.request
        return request.grammar is not None or any(
            len(word) > 1 for word in request.bad_words_token_ids
        )

    @property
    def rank(self) -> tuple[int, int]:
        """Priority, then arrival: the lowest goes first."""
        return self.request.priority, self.request.arrival

    def metrics(self) -> SlotMetrics:
        return SlotMetrics(
            slot=self.slot,
            waited_steps=self.waited_steps,
            prefill_chunks=self.prefill_chunks,
            prefill_padding=self.prefill_padding,
            decode_steps=self.decode_steps,
            refilled=self.refilled,
        )


@attrs.define(kw_only=True)
class SlotCounters:
    """Counters of a `SlotScheduler` since its creation."""

    steps: int = 0
    """Calls of `SlotScheduler.step` that had work."""
    decode_steps: int = 0
    """Steps in which rows decoded."""
    slot_steps: int = 0
    """Tokens that the slots could have received, which is decode steps times slots."""
    occupied_slot_steps: int = 0
    """Slots that received a token, summed over the decode steps."""
    refills: int = 0
    """Requests that took over a slot while others were running."""
    admitted: int = 0
    finished: int = 0
    aborted: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    """Computed prompt tokens."""
    cached_tokens: int = 0
    """Prompt tokens that requests took over from rows."""
    prefill_padding: int = 0
    """Computed padding positions."""
    generated_tokens: int = 0


@attrs.frozen
class _Started:
    """A step that the engine has started, and whose results are not read."""

    writing: Sequence[_Running]
    """The requests whose prompts it writes, one for each chunk."""
    decoding: Sequence[_Running]
    results: Results


class SlotScheduler(Engine):
    """An `Engine` over a `SlotEngine`: admits, refills, decodes and retires requests.

    Args:
        engine: Computes. `close` closes it too.
        max_num_batched_tokens: Prompt tokens that one step computes at most. Several
            steps write a longer prompt in chunks, and rows decode meanwhile.

    Attributes:
        counters: What the scheduler did so far.
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
        self._arrived_at: dict[str, int] = {}  # step, by id of a waiting request
        self._running: dict[str, _Running] = {}
        self._contents = RowContents(engine.num_slots, shortest=engine.shortest_prefix)
        self._used: set[int] = set()
        self._started: deque[_Started] = deque()
        self._gate = AdapterGate(engine.max_loras, num_slots=engine.num_slots)
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
                shrink(self._arrived_at)
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
        if self._engine.starts_ahead:
            return self._step_ahead()
        if self._engine.joins_steps and (live := self._live()):
            return self._advance(live)
        outputs = self._fill()
        outputs += self._decode(self._live())
        return outputs

    @override
    def stats(self) -> Mapping[str, Any]:
        return {
            "num_slots": self._engine.num_slots,
            "running": len(self._running),
            "waiting": len(self._waiting),
            **attrs.asdict(self.counters),
        }

    @override
    def close(self) -> None:
        self._started.clear()
        self._engine.close()

    def check(self) -> None:
        """Raise `AssertionError` if an invariant of this module does not hold."""
        held = [running.slot for running in self._running.values()]
        slots = sorted(held + self._contents.free)
        assert slots == list(range(self._engine.num_slots))
        assert not any(request_id in self._waiting for request_id in self._running)
        assert len(self._arrived_at) == len(self._waiting)

    # -------------------------------------------------------------- admit and refill

    def _fill(self) -> list[EngineOutput]:
        """Admit and prefill until the slots are full or the budget is spent.

        Repeats, because a request of a single token frees its slot at once.
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

        A request that could not begin its prompt in this step stays in the queue, where
        a more urgent one can still overtake it. So does one that begins like a prompt
        under way: it takes over what that prompt leaves, in this step unless the budget
        is spent.
        """
        if not self._contents.free or not self._waiting:
            return
        budget -= sum(running.unwritten for running in self._running.values())
        adapters = {each.request.lora_request for each in self._running.values()}
        while self._contents.free and budget > 0:
            request = self._gate.take(self._waiting, adapters)
            if request is None:
                break
            prefix = self._contents.find(request)
            if prefix.is_coming:
                self._waiting.push(request)
                break
            adapters.add(request.lora_request)
            budget -= len(request.prompt_token_ids) - prefix.length
            self._start(request, prefix)
        self._gate.put_back(self._waiting)

    def _start(self, request: EngineRequest, prefix: Prefix) -> None:
        slot = self._contents.take(request, prefix)
        refilled = slot in self._used and bool(self._running)
        self._used.add(slot)
        arrived_at = self._arrived_at.pop(request.request_id)
        self._running[request.request_id] = _Running(
            request=request,
            slot=slot,
            # The step after its arrival is the first that can admit a request.
            waited_steps=self.counters.steps - arrived_at - 1,
            refilled=refilled,
            prefix=prefix,
            prefilled=prefix.length,
        )
        shrink(self._arrived_at)
        self.counters.admitted += 1
        self.counters.cached_tokens += prefix.length
        self.counters.refills += refilled

    def _next_chunks(self, budget: int) -> list[PromptChunk]:
        """Return chunks of *budget* prompt tokens, the most urgent requests first."""
        unwritten = [each for each in self._running.values() if each.unwritten]
        chunks = []
        for running in sorted(unwritten, key=lambda each: each.rank):
            if budget <= 0:
                break
            size = running.unwritten
            if self._engine.splits_prompts:
                size = min(size, budget)
            budget -= size
            start, prefix = running.prefilled, running.prefix
            takes_over = prefix.length and not running.prefill_chunks
            chunks.append(
                PromptChunk(
                    slot=running.slot,
                    request=running.request,
                    start=start,
                    end=start + size,
                    prefix_slot=prefix.slot if takes_over else None,
                )
            )
        return chunks

    def _advance(self, live: Sequence[_Running]) -> list[EngineOutput]:
        """Admit, and prefill and decode at once.

        Slots that this frees wait for the next step, which fills them at once too.
        """
        self._admit(self._budget)
        chunks = self._next_chunks(self._budget)
        if not chunks:
            return self._decode(live)
        slots = [running.slot for running in live]
        writing = self._note_chunks(chunks)
        result, tokens = self._engine.advance(chunks, slots)
        return self._note_prefill(writing, result) + self._note_decode(live, tokens)

    def _prefill(self, chunks: Sequence[PromptChunk]) -> list[EngineOutput]:
        writing = self._note_chunks(chunks)
        return self._note_prefill(writing, self._engine.prefill(chunks))

    def _note_chunks(self, chunks: Sequence[PromptChunk]) -> list[_Running]:
        """Count chunks as written; return their requests."""
        writing = [self._running[chunk.request.request_id] for chunk in chunks]
        for chunk, running in zip(chunks, writing, strict=True):
            running.prefilled = chunk.end
            running.prefill_chunks += 1
            running.started += chunk.is_last
            self._contents.note_prompt(chunk.slot, chunk.end)
            self.counters.prompt_tokens += chunk.end - chunk.start
        return writing

    def _note_prefill(
        self, writing: Sequence[_Running], result: PrefillResult
    ) -> list[EngineOutput]:
        prompt_logprobs = result.prompt_logprobs or [None] * len(writing)
        outputs = []
        for running, token, padding, logprobs in zip(
            writing, result.tokens, result.padding, prompt_logprobs, strict=True
        ):
            self.counters.prefill_padding += padding
            running.prefill_padding += padding
            if logprobs is not None:
                running.prompt_logprobs = [*(running.prompt_logprobs or ()), *logprobs]
            if token is not None and self._has_slot(running):
                outputs.append(self._accept(running, token))
        return outputs

    # ------------------------------------------------------------------ the step ahead

    def _step_ahead(self) -> list[EngineOutput]:
        """Start a step, and read the results of the one before.

        Slots that these free are filled by the next step.
        """
        outputs = self._read(but=0) if self._needs_tokens() else []
        may_go_on = self._start_step() and not self._needs_tokens()
        outputs += self._read(but=int(may_go_on))
        if not self._running:
            self._started.clear()  # only rows that had ended are in it
        return outputs

    def _needs_tokens(self) -> bool:
        return any(running.needs_tokens for running in self._running.values())

    def _start_step(self) -> bool:
        """Start a step; return false if nothing can be computed before results."""
        self._admit(self._budget)
        live = [
            running
            for running in self._live()
            if running.started < running.request.max_new_tokens
        ]
        chunks = self._next_chunks(self._budget)
        if not chunks and not live:
            return False
        writing = self._note_chunks(chunks)
        for running in live:
            running.started += 1
        results = self._engine.start(chunks, [running.slot for running in live])
        self._started.append(_Started(writing, live, results))
        return True

    def _read(self, *, but: int) -> list[EngineOutput]:
        """Read the results of all steps that were started *but* the last ones."""
        outputs = []
        while len(self._started) > but:
            step = self._started.popleft()
            result, tokens = step.results()
            outputs += self._note_prefill(step.writing, result)
            if step.decoding:
                outputs += self._note_decode(step.decoding, tokens)
        return outputs

    def _has_slot(self, running: _Running) -> bool:
        """Whether a request has not ended since a step with it was started."""
        return self._running.get(running.request.request_id) is running

    # ------------------------------------------------------------- decode and retire

    def _live(self) -> list[_Running]:
        """Return the requests whose prompts are written."""
        return [each for each in self._running.values() if not each.unwritten]

    def _decode(self, live: Sequence[_Running]) -> list[EngineOutput]:
        if not live:
            return []
        tokens = self._engine.decode([running.slot for running in live])
        return self._note_decode(live, tokens)

    def _note_decode(
        self, live: Sequence[_Running], tokens: Sequence[SlotToken]
    ) -> list[EngineOutput]:
        self.counters.decode_steps += 1
        self.counters.slot_steps += self._engine.num_slots
        outputs = []
        for running, token in zip(live, tokens, strict=True):
            if not self._has_slot(running):
                continue
            self.counters.occupied_slot_steps += 1
            running.decode_steps += 1
            outputs.append(self._accept(running, token))
        return outputs

    def _accept(self, running: _Running, token: SlotToken) -> EngineOutput:
        """Make an output of a slot's token, and retire the request if it ends."""
        request_id = running.request.request_id
        if token.error is not None:
            self._free_slot(running, keep=False)
            self.counters.failed += 1
            return EngineOutput(
                request_id=request_id,
                finish_reason="error",
                error=token.error,
                num_cached_tokens=running.prefix.length,
                slots=running.metrics(),
            )
        self._contents.note_token(running.slot, token.token_id)
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
            num_cached_tokens=running.prefix.length,
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

    def _free_slot(self, running: _Running, *, keep: bool = True) -> None:
        del self._running[running.request.request_id]
        self._engine.release(running.slot)
        self._contents.release(running.slot, keep=keep)
