# SPDX-License-Identifier: Apache-2.0

"""Checks the plugin's assumptions about ``ModelRunner`` and ``ModelRunnerCpp``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import attrs

from unillm.backend import BatchRow, EngineRequest, Finding, SamplingParams

from ._checks import Seen, findings
from ._runner import RunnerEngine

_STEPS = 8
_SOURCE = "runtime/model_runner*.py"


def examine_runner(engine: RunnerEngine, prompt: Sequence[int]) -> Iterator[Finding]:
    """Yield a finding for each assumption about a runner."""
    checks = [
        (_shows_the_prompt, _SOURCE),
        (_streams_all_again, _SOURCE),
        (_pads_with_the_eos_token, _SOURCE),
        (_counts_no_eos_token, "samplingTopKKernels.cu"),
    ]
    if engine.by_row:
        checks.append((_can_be_left, _SOURCE))
        if engine.limits.max_num_seqs > 1:
            checks.append((_takes_options_by_row, _SOURCE))
    return findings(_Asker(engine, tuple(prompt)), checks)


@attrs.frozen
class _Asker:
    """Submits runs to the raw runner as the engine does."""

    engine: RunnerEngine
    prompt: tuple[int, ...]

    def begin(self, *rows: BatchRow) -> Any:
        """Return the stream of a run of *rows*."""
        return self.engine.runner.generate(
            **self.engine.arguments(rows, max_new_tokens=_STEPS)
        )

    def row(self, *stop_ids: int, **fields: Any) -> BatchRow:
        """Return a row that ends at *stop_ids* alone."""
        request = EngineRequest(
            request_id="doctor",
            prompt_token_ids=self.prompt,
            params=SamplingParams(**{"temperature": 0, **fields}),
            stop_token_ids=frozenset(stop_ids),
            max_new_tokens=_STEPS,
            seed=0,
        )
        return BatchRow(request=request)

    def new_ids(self, output: Any, row: int = 0) -> list[int]:
        """Return all ids after a row's prompt, padding included."""
        ids: list[int] = output["output_ids"][row, 0, len(self.prompt) :].tolist()
        return ids

    def length(self, output: Any) -> int:
        """Return the first row's sequence length after its prompt."""
        length: int = output["sequence_lengths"][0, 0].item()
        return length - len(self.prompt)

    def greedy_ids(self) -> list[int]:
        """Return greedy ids that no stop id ends."""
        *_, last = self.begin(self.row())
        return self.new_ids(last)[:_STEPS]


def _shows_the_prompt(asker: _Asker) -> Seen:
    """Outputs begin with the prompt, and lengths count it."""
    *_, last = asker.begin(asker.row())
    ids = last["output_ids"][0, 0].tolist()
    size, length = len(asker.prompt), asker.length(last)
    held = tuple(ids[:size]) == asker.prompt and length == _STEPS
    seen = ids[: size + _STEPS]
    return held, f"{size} ids in, {_STEPS} asked, {length} are new: {seen}"


def _streams_all_again(asker: _Asker) -> Seen:
    """Each output of a stream has all tokens so far."""
    outputs = [
        asker.new_ids(each)[: asker.length(each)] for each in asker.begin(asker.row())
    ]
    lengths = [len(ids) for ids in outputs]
    held = all(ids == outputs[-1][: len(ids)] for ids in outputs)
    return held and lengths == sorted(lengths), f"lengths {lengths}"


def _pads_with_the_eos_token(asker: _Asker) -> Seen:
    """The padding after the end is the EOS token."""
    end = asker.greedy_ids()[3]
    *_, last = asker.begin(asker.row(end))
    ids = asker.new_ids(last)
    held = set(ids[ids.index(end) :]) == {end}
    return held, f"EOS token {end}, ids {ids[:_STEPS]}"


def _counts_no_eos_token(asker: _Asker) -> Seen:
    """Lengths do not count the EOS token."""
    end = asker.greedy_ids()[3]
    *_, last = asker.begin(asker.row(end))
    length = asker.length(last)
    before = asker.new_ids(last).index(end)
    return length == before, f"{before} ids before it, length {length}"


def _takes_options_by_row(asker: _Asker) -> Seen:
    """Each row has its own sampling options."""
    # After a single token the next one is uncertain, and the model repeats itself.
    asker = attrs.evolve(asker, prompt=asker.prompt[-1:])
    penalised = asker.row(repetition_penalty=2.0, temperature=2.0)
    *_, last = asker.begin(asker.row(), penalised)
    plain, other = (asker.new_ids(last, row)[:_STEPS] for row in (0, 1))
    held = plain == asker.greedy_ids() and plain != other
    return held, f"greedy {plain}; sampled with a repetition penalty {other}"


def _can_be_left(asker: _Asker) -> Seen:
    """A stream that is left does not disturb later ones."""
    before = asker.greedy_ids()
    stream = asker.begin(asker.row())
    next(stream)
    stream.close()
    after = asker.greedy_ids()
    return before == after, f"{before} before, {after} after"
