# SPDX-License-Identifier: Apache-2.0

"""``ModelRunner`` and ``ModelRunnerCpp`` as batch engines, for unillm's run scheduler.

Outputs of the stream are cumulative: prompt, new tokens, padding. The padding is the
EOS token, so the tokens of a row are those below its sequence length. That length does
not count the EOS token, so a row that is short at the end of its run has ended with it.

``ModelRunner`` stops when its stream is left, and takes sampling options per row.
``ModelRunnerCpp`` keeps its requests when its stream is left, so a run drains the
stream, and the requests of a run share their options.

References:
    ``tensorrt_llm/runtime/model_runner.py``, ``model_runner_cpp.py``, ``generation.py``
    and ``examples/run.py``, 0.11 to 1.x.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Sequence
from typing import Any

from typing_extensions import override

from unillm.backend import (
    BatchEngine,
    BatchRow,
    BatchTraits,
    EngineLimits,
    EngineRequest,
    PromptWork,
    RowTokens,
    Run,
    RunStep,
)

from . import _sampling
from ._capabilities import on_runners

_RUN_BOUND = {"seed": "the session seeds its random numbers anew in each run"}

_BY_ROW = {
    "temperature": "float32",
    "top_p": "float32",
    "top_k": "int32",
    "random_seed": "int64",
    "repetition_penalty": "float32",
}
"""Options of ``SamplingConfig`` that may be tensors of one value a row, with dtypes."""

_NEUTRAL = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 1,
    "random_seed": 0,
    "repetition_penalty": 1.0,
}


class RunnerEngine(BatchEngine):
    """A runner on an engine directory.

    Args:
        runner: TensorRT-LLM's runner; dropped by `close`.
        limits: Of the built engine.
        packed: Whether prompts are packed, rather than padded to the longest.
        by_row: Whether each row has its own sampling options: ``ModelRunner``.
        takes_seeds: Whether the runner takes ``random_seed``.
        release: Called by `close`.

    Attributes:
        runner: TensorRT-LLM's runner; `None` once closed.
        by_row: See above.
    """

    def __init__(
        self,
        runner: Any,
        *,
        limits: EngineLimits,
        packed: bool,
        by_row: bool,
        takes_seeds: bool,
        release: Callable[[], None],
    ) -> None:
        self.runner = runner
        self.limits = limits
        self.by_row = by_row
        self._takes_seeds = takes_seeds
        self._release = release
        self.traits = BatchTraits(
            can_stop=self.by_row,
            prompt_work=PromptWork.PACKED if packed else PromptWork.PADDED,
            shared_context=True,
            run_bound_fields=_RUN_BOUND,
        )
        self.capabilities = on_runners(takes_seeds=takes_seeds)

    @override
    def group(self, request: EngineRequest) -> Hashable:
        end_id, _ = _sampling.end_ids(request)
        if self.by_row:
            return end_id
        return end_id, tuple(sorted(self._options(request).items()))

    @override
    def run(self, rows: Sequence[BatchRow], *, max_new_tokens: int) -> Run:
        return self._steps(rows, max_new_tokens)

    @override
    def close(self) -> None:
        if self.runner is not None:
            self.runner = None
            self._release()

    def _steps(
        self, rows: Sequence[BatchRow], max_new_tokens: int
    ) -> Generator[RunStep, None, None]:
        reader = _Reader(rows)
        stream = self.runner.generate(**self.arguments(rows, max_new_tokens))
        try:
            for output in stream:
                if step := reader.read(output):
                    yield step
            if last := reader.missing_ends(max_new_tokens):
                yield last
        finally:
            if self.by_row:
                stream.close()
            else:
                for _ in stream:  # the rest would come back in the next run
                    pass

    def arguments(
        self, rows: Sequence[BatchRow], max_new_tokens: int
    ) -> dict[str, Any]:
        """Return the arguments of a run; the runner ignores unknown names."""
        import torch

        end_id, _ = _sampling.end_ids(rows[0].request)
        options = [self._options(row.request) for row in rows]
        banned = [
            [[token_id] for token_id in _sampling.bad_ids(row.request)] for row in rows
        ]
        shared = self._as_tensors(options) if self.by_row else options[0]
        return {
            "batch_input_ids": [
                torch.tensor(row.prompt_token_ids, dtype=torch.int32) for row in rows
            ],
            "max_new_tokens": max_new_tokens,
            "end_id": end_id,
            "pad_id": end_id,
            # One list a row, or the C++ runner drops the later rows.
            "stop_words_list": [
                [[token_id] for token_id in _sampling.end_ids(row.request)[1]]
                for row in rows
            ],
            "bad_words_list": banned if any(banned) else None,
            "streaming": True,
            "return_dict": True,
            "output_sequence_lengths": True,
            **shared,
        }

    def _options(self, request: EngineRequest) -> dict[str, float]:
        """Return the sampling options of a request, under the runners' names."""
        chosen = {
            **_sampling.choice(request, vocab_size=self.limits.vocab_size),
            **_sampling.penalties(request),
        }
        if self._takes_seeds and not request.params.greedy:
            chosen["random_seed"] = _sampling.seed(request)
        return chosen

    @staticmethod
    def _as_tensors(options: Sequence[dict[str, float]]) -> dict[str, Any]:
        import torch

        given = {name for each in options for name in each}
        return {
            name: torch.tensor(
                [each.get(name, _NEUTRAL[name]) for each in options],
                dtype=getattr(torch, _BY_ROW[name]),
            )
            for name in sorted(given)
        }


def takes_seeds(runner_class: Any) -> bool:
    """Whether a runner takes ``random_seed``; it ignores unknown names in silence.

    The names that it takes are constants in the code of its ``generate``; those of
    ``ModelRunner`` are the fields of its ``SamplingConfig``. A candidate of 0.13 has
    none for seeds.
    """
    if runner_class.__name__ != "ModelRunnerCpp":
        return True
    constants = list(runner_class.generate.__code__.co_consts)
    nested = [each for part in constants if isinstance(part, tuple) for each in part]
    return "random_seed" in (*constants, *nested)


class _Reader:
    """Reads the new tokens of each row from cumulative outputs."""

    def __init__(self, rows: Sequence[BatchRow]) -> None:
        self._rows = rows
        self._starts = [len(row.prompt_token_ids) for row in rows]
        self._seen = [0] * len(rows)
        self._ended = [False] * len(rows)

    def read(self, output: Any) -> RunStep | None:
        """Return the new tokens of an output; `None` if it has none."""
        lengths = output["sequence_lengths"][:, 0].tolist()
        new: list[RowTokens] = []
        for row, length in enumerate(lengths):
            start = self._starts[row] + self._seen[row]
            if self._ended[row] or length <= start:
                continue
            # The runner goes on to the largest length of the batch, so each row is cut.
            stop = min(length, self._starts[row] + self._rows[row].max_new_tokens)
            token_ids = output["output_ids"][row, 0, start:stop].tolist()
            new.append(self._note(row, token_ids))
        if not new:
            return None
        return RunStep(new, num_steps=max(len(each.token_ids) for each in new))

    def missing_ends(self, max_new_tokens: int) -> RunStep | None:
        """Return the EOS tokens that no length counted, once the run is over."""
        short = [
            row
            for row, seen in enumerate(self._seen)
            if not self._ended[row] and seen < max_new_tokens
        ]
        if not short:
            return None
        return RunStep([self._note(row, [self._end_id(row)]) for row in short])

    def _note(self, row: int, token_ids: list[int]) -> RowTokens:
        asked = self._rows[row]
        self._seen[row] += len(token_ids)
        self._ended[row] = self._seen[row] >= asked.max_new_tokens or any(
            token_id in asked.request.stop_token_ids for token_id in token_ids
        )
        return RowTokens(row=row, token_ids=token_ids)

    def _end_id(self, row: int) -> int:
        return _sampling.end_ids(self._rows[row].request)[0]
