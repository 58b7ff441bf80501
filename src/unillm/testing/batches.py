# SPDX-License-Identifier: Apache-2.0

"""A batch engine that follows a script, on a clock of its own.

For tests of scheduling order and faults, and to simulate the throughput of a scheduler:
a model of costs moves the clock with each computation.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

import attrs
from typing_extensions import override

from ..engines.base import Capabilities, EngineLimits, EngineRequest, TokenLogprobs
from ..engines.batches import (
    BatchEngine,
    BatchRow,
    BatchTraits,
    PromptWork,
    RowTokens,
    RunStep,
)
from ..scheduling.policy import prefill_of
from .scripted import PromptScript, Script, as_token, no_prompt_logprobs


@attrs.frozen(kw_only=True)
class StepCosts:
    """Seconds that the work of a batch engine takes."""

    step_s: float = 1.0
    """Each decode step."""
    row_s: float = 0.0
    """Added for each unfinished row of a step."""
    call_s: float = 0.0
    """Each start of a run."""
    prompt_token_s: float = 0.0
    """Each prompt position computed at once, padding included."""
    context_token_s: float = 0.0
    """Added for each token that a row of a step attends to."""
    warm_up_s: float = 0.0
    """Added to the first run."""

    def of_step(self, rows: int, *, context: int = 0) -> float:
        """Return the seconds of a decode step.

        Args:
            rows: Unfinished rows.
            context: Tokens that they attend to, summed over the rows.
        """
        return self.step_s + rows * self.row_s + context * self.context_token_s


class ScriptedBatchEngine(BatchEngine):
    """A static batch that follows a script and asserts the scheduler's rules.

    Args:
        script: Returns each new token of a request.
        max_rows: Rows of its largest batch.
        traits: Its limits. If it cannot stop, a run has one `RunStep`.
        costs: Seconds of its work.
        max_model_len: Prompt and new tokens that a row holds.
        max_prompt_len: Longest prompt; `None` for ``max_model_len - 1``.
        vocab_size: Ids are below it.
        group: Result of `BatchEngine.group`.
        prompt_script: Log-probabilities of prompts.
        capabilities: Of the engine.

    Attributes:
        now: Its clock, in seconds. Tests may advance it.
        calls: All calls, in order: ``("run", request ids)``, ``("close",)``.
    """

    def __init__(
        self,
        script: Script,
        *,
        max_rows: int = 4,
        traits: BatchTraits | None = None,
        costs: StepCosts | None = None,
        max_model_len: int = 256,
        max_prompt_len: int | None = None,
        vocab_size: int = 1000,
        group: Callable[[object], object] = lambda _: None,
        prompt_script: PromptScript = no_prompt_logprobs,
        capabilities: Capabilities | None = None,
    ) -> None:
        self._script = script
        self._prompt_script = prompt_script
        if capabilities is not None:
            self.capabilities = capabilities
        if traits is not None:
            self.traits = traits
        self._costs = costs or StepCosts()
        self.limits = EngineLimits(
            max_model_len=max_model_len,
            max_num_seqs=max_rows,
            max_prompt_len=max_prompt_len,
            vocab_size=vocab_size,
        )
        self._group = group
        self._running = False
        self._runs = 0
        self._live: set[int] = set()
        self.now = 0.0
        self.calls: list[tuple[object, ...]] = []

    def clock(self) -> float:
        """Return `now`."""
        return self.now

    @override
    def group(self, request: object) -> object:
        return self._group(request)

    @override
    def run(
        self, rows: Sequence[BatchRow], *, max_new_tokens: int
    ) -> Generator[RunStep, None, None]:
        self.calls.append(("run", tuple(row.request.request_id for row in rows)))
        self._check(rows, max_new_tokens)
        steps = self._compute(rows, max_new_tokens)
        return steps if self.traits.can_stop else _all_at_once(steps)

    @override
    def end_row(self, row: int) -> None:
        self._live.discard(row)

    @override
    def close(self) -> None:
        self.calls.append(("close",))

    def _check(self, rows: Sequence[BatchRow], max_new_tokens: int) -> None:
        assert not self._running, "a run starts during another one"
        assert rows, "a run has no rows"
        assert max_new_tokens >= 1
        assert len(rows) <= self.limits.max_num_seqs, "more rows than the batch has"
        assert len({self._group(row.request) for row in rows}) == 1
        for row in rows:
            length = len(row.prompt_token_ids)
            assert length <= self.limits.longest_prompt, "the prompt is too long"
            assert row.max_new_tokens >= 1, "a row has ended"
            assert length + row.max_new_tokens <= self.limits.max_model_len

    def _compute(
        self, rows: Sequence[BatchRow], max_new_tokens: int
    ) -> Generator[RunStep, None, None]:
        self._running = True
        self._runs += 1
        try:
            yield from self._steps(rows, max_new_tokens)
        finally:
            self._running = False

    def _steps(
        self, rows: Sequence[BatchRow], max_new_tokens: int
    ) -> Generator[RunStep, None, None]:
        lengths = [len(row.prompt_token_ids) for row in rows]
        work = prefill_of(lengths, self.traits.prompt_work)
        self.now += self._costs.call_s + work.tokens * self._costs.prompt_token_s
        self.now += self._costs.warm_up_s if self._runs == 1 else 0.0
        stepwise = self.traits.prompt_work is PromptWork.STEPWISE
        late = [length - min(lengths) if stepwise else 0 for length in lengths]
        generated = [len(row.generated) for row in rows]
        ends = [
            len(row.generated) + min(row.max_new_tokens, max_new_tokens) for row in rows
        ]
        self._live = live = set(range(len(rows)))
        step = silent = 0
        while live:
            tokens_of_step = []
            if step:
                # A late row has only the part of its prompt that was computed at once.
                context = sum(lengths[row] - late[row] + step for row in live)
                self.now += self._costs.of_step(len(live), context=context)
            for row in sorted(index for index in live if late[index] <= step):
                tokens = self._next(row, rows[row].request, generated[row])
                generated[row] += 1
                tokens_of_step.append(tokens)
                ended = rows[row].request.stop_token_ids & set(tokens.token_ids)
                if ended or tokens.error or generated[row] >= ends[row]:
                    live.discard(row)
            step += 1
            silent += 1
            if tokens_of_step:
                yield RunStep(tokens_of_step, num_steps=silent)
                silent = 0

    def _next(self, row: int, request: EngineRequest, position: int) -> RowTokens:
        token = as_token(self._script(request, position))
        if token.error is not None:
            return RowTokens(row=row, error=token.error)
        return RowTokens(
            row=row,
            token_ids=(token.token_id,),
            logprobs=None if token.logprobs is None else (token.logprobs,),
            prompt_logprobs=None if position else self._prompt_script(request),
        )

    def check_idle(self) -> None:
        """Raise `AssertionError` if a run has not ended."""
        assert not self._running


def _all_at_once(
    steps: Generator[RunStep, None, None],
) -> Generator[RunStep, None, None]:
    """Join all steps into one, as an engine that does not stream."""
    rows: dict[int, list[RowTokens]] = {}
    count = 0
    for step in steps:
        count += step.num_steps
        for tokens in step.rows:
            rows.setdefault(tokens.row, []).append(tokens)
    yield RunStep([_joined(tokens) for tokens in rows.values()], num_steps=count)


def _joined(tokens: Sequence[RowTokens]) -> RowTokens:
    """Join the tokens of one row."""
    logprobs: list[TokenLogprobs] = []
    for each in tokens:
        logprobs += each.logprobs or ()
    return RowTokens(
        row=tokens[0].row,
        token_ids=[token_id for each in tokens for token_id in each.token_ids],
        logprobs=logprobs or None,
        prompt_logprobs=tokens[0].prompt_logprobs,
        error=tokens[-1].error,
    )
