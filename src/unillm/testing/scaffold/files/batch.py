"""newengine in runs: it only knows generate(batch)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from unillm.backend import (
    BatchEngine,
    BatchRow,
    EngineConfig,
    EngineLimits,
    RequestSampler,
    RowTokens,
    Run,
    RunScheduler,
    RunStep,
    TokenLogprobs,
    check_model_len,
    token_logprobs,
)
from unillm.testing.reference import ReferenceModel


class NewengineEngine(BatchEngine):
    """A model that computes a batch from its prompts to its end."""

    # `traits` says how your engine differs: whether a run can be stopped, how prompts
    # are padded, which fields begin anew with each run.

    def __init__(self, model: ReferenceModel, limits: EngineLimits) -> None:
        self._model = model
        self.limits = limits
        self._live: set[int] = set()

    def run(self, rows: Sequence[BatchRow], *, max_new_tokens: int) -> Run:
        """Begin a run of *rows*."""
        self._live = set(range(len(rows)))
        return self._steps(rows, max_new_tokens)

    def end_row(self, row: int) -> None:
        """Compute a row no more."""
        self._live.discard(row)

    def close(self) -> None:
        """Free the model. A second call does nothing."""
        self._live.clear()

    def _steps(self, rows: Sequence[BatchRow], most: int) -> Iterator[RunStep]:
        """Yield the tokens of each step. The scheduler may close it at any yield."""
        samplers = [RequestSampler(row.request, row.generated) for row in rows]
        ids = [list(row.prompt_token_ids) for row in rows]
        for step in range(most):
            tokens = []
            for row in sorted(self._live):
                # Your engine computes the logits of all rows at once here.
                logits = self._model.logits(ids[row])
                token = samplers[row].next(logits)
                ids[row].append(token.token_id)
                logprobs = token.logprobs
                tokens.append(
                    RowTokens(
                        row=row,
                        token_ids=(token.token_id,),
                        logprobs=None if logprobs is None else (logprobs,),
                        prompt_logprobs=None if step else self._of_prompt(rows[row]),
                        error=token.error,
                    )
                )
            yield RunStep(tokens)

    def _of_prompt(self, row: BatchRow) -> list[TokenLogprobs] | None:
        count, ids = row.request.params.prompt_logprobs, row.request.prompt_token_ids
        if count is None or row.generated:
            return None
        return [
            token_logprobs(self._model.logits(ids[:index]), ids[index], count)
            for index in range(1, len(ids))
        ]


def load(config: EngineConfig) -> RunScheduler:
    """Load a model, and give its runs continuous batching."""
    model = ReferenceModel(config.path)
    check_model_len(config.max_model_len, positions=model.max_model_len)
    limits = EngineLimits(
        max_model_len=config.max_model_len or model.max_model_len,
        max_num_seqs=config.max_num_seqs or 8,
        vocab_size=model.vocab_size,
    )
    engine = NewengineEngine(model, limits)
    return RunScheduler(engine, clock=time.perf_counter)
