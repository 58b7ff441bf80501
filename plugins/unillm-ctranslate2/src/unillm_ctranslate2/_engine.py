# SPDX-License-Identifier: Apache-2.0

"""CTranslate2's `Generator` as a batch engine: prompts in, tokens of all rows by step.

CTranslate2 computes on its own threads and calls back for each token. A run is a thread
that waits for the call, and a queue. The computation is at most one step ahead of the
reader, so closing a run wastes no more than a step.

Tests of CTranslate2 4.8 found these properties, which the engine relies on:

- With ``include_prompt_in_result=False``, prompts are computed at once up to the length
  of the shortest. The decode steps compute the rest of the longer ones, a token a step,
  without callbacks for these rows.
- ``max_length`` counts the new tokens of each row from its first one.
- Returning true from the callback ends that row alone, and it leaves the batch.
- Sampling options hold for a whole call. Each thread has one random generator, seeded
  once a process.
- The logits of a callback are complete only for a batch of one row.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Mapping, Sequence
from queue import SimpleQueue
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import attrs
from typing_extensions import override

from unillm.backend import (
    BatchEngine,
    BatchRow,
    BatchTraits,
    EngineLimits,
    EngineRequest,
    PromptWork,
    RowTokens,
    RunStep,
    TokenLogprobs,
    give_back,
)
from unillm.errors import EngineOutOfMemoryError

if TYPE_CHECKING:
    from ctranslate2 import GenerationStepResult, Generator

RUN_BOUND: Mapping[str, str] = MappingProxyType(
    {
        "min_tokens": "counted from the beginning of a run",
        "bad_words": "matched within the tokens of a run",
    }
)


@attrs.frozen(kw_only=True)
class _Group:
    """Options that hold for a whole batch."""

    temperature: float
    top_k: int
    top_p: float
    min_tokens: int = 0
    end_ids: frozenset[int] = frozenset()
    bad_words: tuple[tuple[int, ...], ...] = ()
    prompt_length: int | None = None
    """Set where an option looks back into the prompt, whose length then has to be the
    same for all rows."""
    alone: str | None = None
    """Id of a request that needs a run of its own."""

    @classmethod
    def of(cls, request: EngineRequest, *, vocab_size: int) -> _Group:
        params = request.params
        # CTranslate2 refuses a batch for a top_k above its vocabulary.
        top_k = params.top_k if 0 < params.top_k < vocab_size else 0
        # Beside a prompt of one id, CTranslate2 returns the longer prompts as new ids.
        alone = params.logprobs is not None or len(request.prompt_token_ids) == 1
        looks_back = bool(params.min_tokens or request.bad_words_token_ids)
        return cls(
            temperature=1.0 if params.greedy else params.temperature,
            top_k=1 if params.greedy else top_k,
            top_p=1.0 if params.greedy else params.top_p,
            min_tokens=params.min_tokens,
            end_ids=request.stop_token_ids if params.min_tokens else frozenset(),
            bad_words=request.bad_words_token_ids,
            prompt_length=len(request.prompt_token_ids) if looks_back else None,
            alone=request.request_id if alone else None,
        )

    @property
    def options(self) -> dict[str, Any]:
        """Keywords of ``Generator.generate_batch``."""
        words = [[str(each) for each in word] for word in self.bad_words]
        return {
            "sampling_temperature": self.temperature,
            "sampling_topk": self.top_k,
            "sampling_topp": self.top_p,
            "min_length": self.min_tokens,
            # The callback ends rows and keeps the EOS token; CTranslate2 needs these
            # ids to ban early ends.
            "end_token": sorted(self.end_ids),
            "return_end_token": True,
            "suppress_sequences": words or None,
            "return_logits_vocab": self.alone is not None,
        }


class CTranslate2Engine(BatchEngine):
    """A converted model.

    Args:
        generator: Loaded, with the ids as texts for a vocabulary; unloaded by `close`.
        limits: The core checks requests against them.
    """

    def __init__(self, generator: Generator, limits: EngineLimits) -> None:
        self._generator: Generator | None = generator
        self.limits = limits
        self._texts = [str(token_id) for token_id in range(limits.vocab_size)]
        self._run: _Run | None = None
        self.traits = BatchTraits(
            prompt_work=PromptWork.STEPWISE, run_bound_fields=RUN_BOUND
        )

    @override
    def group(self, request: EngineRequest) -> Hashable:
        return _Group.of(request, vocab_size=self.limits.vocab_size)

    @override
    def run(self, rows: Sequence[BatchRow], *, max_new_tokens: int) -> _Run:
        assert self._generator is not None, "the engine is closed"
        texts = self._texts
        self._run = _Run(
            self._generator,
            rows,
            prompts=[[texts[each] for each in row.prompt_token_ids] for row in rows],
            max_new_tokens=max_new_tokens,
            options=_Group.of(rows[0].request, vocab_size=len(texts)).options,
        )
        return self._run

    @override
    def end_row(self, row: int) -> None:
        if self._run is not None:
            self._run.end_row(row)

    @override
    def close(self) -> None:
        if self._run is not None:
            self._run.close()
            self._run = None
        self._generator = None
        give_back()


@attrs.frozen
class _Step:
    """The tokens of one step, from its callbacks."""

    number: int
    tokens: Sequence[tuple[int, int, Any]]
    """Row, id, and logits or `None`."""


class _Run:
    """One call of ``generate_batch``, read step by step.

    It has three threads: CTranslate2's calls `_on_token`, a waiting one makes the call
    and reports its end, and the reader's calls the other methods.
    """

    def __init__(
        self,
        generator: Generator,
        rows: Sequence[BatchRow],
        *,
        prompts: list[list[str]],
        max_new_tokens: int,
        options: dict[str, Any],
    ) -> None:
        self._rows = rows
        self._steps: SimpleQueue[_Step | BaseException | None] = SimpleQueue()
        self._may_go_on: SimpleQueue[None] = SimpleQueue()
        self._may_go_on.put(None)  # one step ahead of the reader
        self._closed = False
        self._over = False
        self._read_steps = 0
        self._unwanted: set[int] = set()
        # Used by the callback alone.
        shortest = min(map(len, prompts))
        self._begins = [len(prompt) - shortest for prompt in prompts]
        self._left = [min(row.max_new_tokens, max_new_tokens) for row in rows]
        self._live = set(range(len(rows)))
        self._due = {row for row in self._live if self._begins[row] == 0}
        self._tokens: list[tuple[int, int, Any]] = []
        self._thread = threading.Thread(
            target=self._compute,
            args=(generator, prompts, max(self._left), options),
            name="unillm-ctranslate2",
            daemon=True,
        )
        self._thread.start()

    # ---------------------------------------------------------------- the reader's side

    def __iter__(self) -> _Run:
        return self

    def __next__(self) -> RunStep:
        if self._over:
            raise StopIteration
        step = self._steps.get()
        if not isinstance(step, _Step):
            self._over = True
            self._thread.join()
            if step is None:
                raise StopIteration
            raise step
        self._may_go_on.put(None)
        num_steps = step.number + 1 - self._read_steps
        self._read_steps = step.number + 1
        return RunStep(
            [self._row_tokens(*token) for token in step.tokens], num_steps=num_steps
        )

    def end_row(self, row: int) -> None:
        """Let a row end at its next token."""
        self._unwanted.add(row)

    def close(self) -> None:
        """Let all rows end at their next token, and wait for the end of the run."""
        self._closed = self._over = True
        self._may_go_on.put(None)
        self._thread.join()

    def _row_tokens(self, row: int, token_id: int, logits: Any) -> RowTokens:
        asked = self._rows[row].request.params.logprobs
        if asked is None:
            return RowTokens(row=row, token_ids=(token_id,))
        logprobs = (token_logprobs(logits, token_id, asked),)
        return RowTokens(row=row, token_ids=(token_id,), logprobs=logprobs)

    # ----------------------------------------------------------- on the waiting thread

    def _compute(
        self,
        generator: Generator,
        prompts: list[list[str]],
        max_length: int,
        options: dict[str, Any],
    ) -> None:
        end: BaseException | None = None
        try:
            generator.generate_batch(
                prompts,
                max_batch_size=0,
                beam_size=1,
                max_length=max_length,
                include_prompt_in_result=False,
                callback=self._on_token,
                **options,
            )
        except BaseException as error:  # noqa: BLE001 - raised in the reader
            end = _explained(error)
        self._steps.put(end)

    # ---------------------------------------------------------- on CTranslate2's thread

    def _on_token(self, result: GenerationStepResult) -> bool:
        """Record one token; return whether its row ends."""
        row, token_id = result.batch_id, result.token_id
        logits = None
        if not self._closed and result.logits is not None:
            logits = _copied(result.logits)
        self._tokens.append((row, token_id, logits))
        self._left[row] -= 1
        ends = (
            self._closed
            or row in self._unwanted
            or self._left[row] == 0
            or token_id in self._rows[row].request.stop_token_ids
        )
        if ends:
            self._live.discard(row)
        self._due.discard(row)
        if not self._due:
            self._deliver(result.step)
        return ends

    def _deliver(self, step: int) -> None:
        """Queue a step, and wait until the reader has taken the one before."""
        tokens, self._tokens = self._tokens, []
        self._due = {row for row in self._live if self._begins[row] <= step + 1}
        if not self._due and self._live:
            first = min(self._begins[row] for row in self._live)
            self._due = {row for row in self._live if self._begins[row] == first}
        self._steps.put(_Step(step, tokens))
        if not self._closed:
            self._may_go_on.get()


def token_logprobs(logits: Any, token_id: int, count: int) -> TokenLogprobs:
    """Return the log-probabilities at one position.

    Args:
        logits: ``[vocab]``, float32, before any sampling option.
        token_id: The chosen token.
        count: Number of most probable tokens; -1 for all.
    """
    import numpy as np

    values = logits.astype(np.float64)
    values -= values.max()
    values -= np.log(np.exp(values).sum())
    count = len(values) if count == -1 else count
    order = np.argsort(-values, kind="stable")[:count]
    return TokenLogprobs(
        logprob=float(values[token_id]),
        rank=int((values > values[token_id]).sum()) + 1,
        top_ids=[int(each) for each in order],
        top_logprobs=[float(values[each]) for each in order],
    )


def _copied(logits: Any) -> Any:
    """Copy ``[1, vocab]`` or ``[vocab]``, of any device, which CTranslate2 reuses."""
    import numpy as np
    from ctranslate2 import Device

    if logits.device != Device.cpu.name:
        logits = logits.to_device(Device.cpu)
    return np.array(logits, dtype=np.float32).reshape(-1)


def _explained(error: BaseException) -> BaseException:
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        explained = EngineOutOfMemoryError(
            f"CTranslate2 ran out of memory in a run: {error}. Lower max_num_seqs or "
            "max_model_len, or choose a quantization of fewer bytes."
        )
        explained.__cause__ = error
        return explained
    return error
