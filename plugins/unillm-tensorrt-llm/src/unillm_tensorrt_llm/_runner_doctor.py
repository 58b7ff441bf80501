# SPDX-License-Identifier: Apache-2.0

"""What the plugin assumes of ``ModelRunner`` and ``ModelRunnerCpp``, asked of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs

from unillm.backend import BatchRow, EngineRequest, Finding, SamplingParams

from ._runner import RunnerEngine

_STEPS = 8

_Check = Callable[["_Asker"], "tuple[bool | None, str]"]
"""Returns whether an assumption held, `None` where no source says it, and what came."""


def of_the_runner(engine: RunnerEngine, prompt: Sequence[int]) -> Iterator[Finding]:
    """Yield a finding for each assumption about a runner."""
    asker = _Asker(engine, tuple(prompt))
    checks: list[_Check] = [
        _shows_the_prompt,
        _streams_all_again,
        _pads_with_the_end_id,
        _counts_the_end_id,
    ]
    if engine.by_row:
        checks.append(_can_be_left)
        if engine.limits.max_num_seqs > 1:
            checks.append(_takes_options_by_row)
    for check in checks:
        assumption = (check.__doc__ or "").rstrip(".")
        try:
            held, detail = check(asker)
        except Exception as error:  # noqa: BLE001 - whatever it raises is the finding
            held, detail = False, f"{type(error).__name__}: {error}"
        yield Finding(
            assumption=assumption,
            source="no source says it" if held is None else "runtime/model_runner*.py",
            held=held,
            detail=detail,
        )


@attrs.frozen
class _Asker:
    """Asks the raw runner as the engine does."""

    engine: RunnerEngine
    prompt: tuple[int, ...]

    def begin(self, *rows: BatchRow) -> Any:
        """Return the stream of a run of *rows*."""
        return self.engine.runner.generate(
            **self.engine.arguments(rows, max_new_tokens=_STEPS)
        )

    def row(self, *ends: int, **fields: Any) -> BatchRow:
        """Return a row that ends at *ends* alone."""
        request = EngineRequest(
            request_id="doctor",
            prompt_token_ids=self.prompt,
            params=SamplingParams(**{"temperature": 0, **fields}),
            stop_token_ids=frozenset(ends),
            max_new_tokens=_STEPS,
            seed=0,
        )
        return BatchRow(request=request)

    def new_ids(self, told: Any, row: int = 0) -> list[int]:
        """Return all ids behind a row's prompt, padding among them."""
        ids: list[int] = told["output_ids"][row, 0, len(self.prompt) :].tolist()
        return ids

    def length(self, told: Any) -> int:
        """Return how many ids behind the first row's prompt the runner counts."""
        length: int = told["sequence_lengths"][0, 0].item()
        return length - len(self.prompt)

    def greedy_ids(self) -> list[int]:
        """Return what it says without an end."""
        *_, last = self.begin(self.row())
        return self.new_ids(last)[:_STEPS]


def _shows_the_prompt(asker: _Asker) -> tuple[bool | None, str]:
    """Outputs begin with the prompt, and lengths count it."""
    *_, last = asker.begin(asker.row())
    ids = last["output_ids"][0, 0].tolist()
    size, length = len(asker.prompt), asker.length(last)
    held = tuple(ids[:size]) == asker.prompt and length == _STEPS
    seen = ids[: size + _STEPS]
    return held, f"{size} ids in, {_STEPS} asked, {length} are new: {seen}"


def _streams_all_again(asker: _Asker) -> tuple[bool | None, str]:
    """Each output of a stream has all tokens until then."""
    told = [
        asker.new_ids(each)[: asker.length(each)] for each in asker.begin(asker.row())
    ]
    lengths = [len(ids) for ids in told]
    held = all(ids == told[-1][: len(ids)] for ids in told)
    return held and lengths == sorted(lengths), f"lengths {lengths}"


def _pads_with_the_end_id(asker: _Asker) -> tuple[bool | None, str]:
    """Behind the end stands the end id."""
    end = asker.greedy_ids()[3]
    *_, last = asker.begin(asker.row(end))
    ids = asker.new_ids(last)
    held = set(ids[ids.index(end) :]) == {end}
    return held, f"end id {end}, ids {ids[:_STEPS]}"


def _counts_the_end_id(asker: _Asker) -> tuple[bool | None, str]:
    """Lengths count the end id."""
    end = asker.greedy_ids()[3]
    *_, last = asker.begin(asker.row(end))
    length = asker.length(last)
    before = asker.new_ids(last).index(end)
    answer = {before: "no", before + 1: "yes"}.get(length, "neither")
    return None, f"{answer}: {before} ids before it, length {length}"


def _takes_options_by_row(asker: _Asker) -> tuple[bool | None, str]:
    """Each row has sampling options of its own."""
    # A single token leaves open what follows, and a model then repeats itself.
    asker = attrs.evolve(asker, prompt=asker.prompt[-1:])
    penalised = asker.row(repetition_penalty=2.0, temperature=2.0)
    *_, last = asker.begin(asker.row(), penalised)
    plain, other = (asker.new_ids(last, row)[:_STEPS] for row in (0, 1))
    held = plain == asker.greedy_ids() and plain != other
    return held, f"greedy {plain}; drawn, with a repetition penalty, {other}"


def _can_be_left(asker: _Asker) -> tuple[bool | None, str]:
    """A stream that is left disturbs no later one."""
    before = asker.greedy_ids()
    stream = asker.begin(asker.row())
    next(stream)
    stream.close()
    after = asker.greedy_ids()
    return before == after, f"{before} before, {after} after"
