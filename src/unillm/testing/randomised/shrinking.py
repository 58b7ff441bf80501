# SPDX-License-Identifier: Apache-2.0

"""Shrinks a session that fails to few requests, fields and tokens.

Each step tries a simpler session on the engine and keeps it if it fails too, with any
fault.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import attrs

from ...engines.aspects import aspects_of
from ...params import SamplingParams
from ..asking import bundled_asker
from .jobs import Job
from .requests import changed_fields
from .trying import Fault, Trial

TRIES = 120
"""Simpler sessions that are tried."""

_COST_OF_A_DEATH = 9
"""Tries that count for the death of an engine."""

_DEFAULTS = SamplingParams(temperature=0.0)


class Shrinker:
    """Shrinks sessions of one backend.

    Args:
        trial: Plays them.
    """

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        self._tries = 0

    def shrink(
        self, jobs: Sequence[Job], fault: Fault
    ) -> tuple[Sequence[Job], Fault] | None:
        """Return a simpler session and its fault; `None` if it does not fail again.

        Args:
            jobs: The session that failed.
            fault: Its fault.
        """
        self._tries = 0
        alone = None
        if fault.job is not None:
            alone = self._fault_of([attrs.evolve(fault.job, joins=0)])
        if alone is not None and fault.job is not None:
            jobs, fault = [attrs.evolve(fault.job, joins=0)], alone
        else:
            again = self._fault_of(jobs, fresh=True)
            if again is None:
                return None
            jobs, fault = self._fewer(jobs, again)
        return self._simpler(jobs, fault)

    def _fault_of(self, jobs: Sequence[Job], *, fresh: bool = False) -> Fault | None:
        """Return the fault of a session; a session that the core refuses has none."""
        size = bundled_asker().model.vocab_size
        declares = self._trial.subject.declares
        for job in jobs:
            if not all(map(declares, aspects_of(job.judged, vocab_size=size))):
                return None
        self._tries += 1
        fault = self._trial.try_session(jobs, fresh=fresh).fault
        if fault is not None and fault.job is None:
            self._tries += _COST_OF_A_DEATH  # a new engine is loaded
        return fault

    def _fewer(self, jobs: Sequence[Job], fault: Fault) -> tuple[Sequence[Job], Fault]:
        """Leave out requests, halves at first, as long as the session fails."""
        size = max(len(jobs) // 2, 1)
        while self._tries < TRIES:
            for start in range(0, len(jobs), size):
                rest = [*jobs[:start], *jobs[start + size :]]
                found = self._fault_of(rest) if rest else None
                if found is not None:
                    jobs, fault = rest, found
                    break
            else:
                if size == 1:
                    break
                size = max(size // 2, 1)
        return jobs, fault

    def _simpler(
        self, jobs: Sequence[Job], fault: Fault
    ) -> tuple[Sequence[Job], Fault]:
        """Simplify each request by every step that keeps the session failing."""
        changed = True
        while changed and self._tries < TRIES:
            changed = False
            for index, job in enumerate(jobs):
                for simpler in _simpler_jobs(job, fault):
                    if self._tries >= TRIES:
                        break
                    tried = [*jobs[:index], simpler, *jobs[index + 1 :]]
                    found = self._fault_of(tried)
                    if found is not None:
                        jobs, fault, changed = tried, found, True
                        break
                if changed:
                    break
        return jobs, fault


def _simpler_jobs(job: Job, fault: Fault) -> Iterator[Job]:
    """Yield the job with one thing less."""
    if job.abort_after is not None:
        yield attrs.evolve(job, abort_after=None, again=False)
    if job.joins:
        yield attrs.evolve(job, joins=0)
    yield from _with_fewer_fields(job)
    request = job.request
    params = request.params
    if params.stop_token_ids:
        left = request.stop_token_ids - frozenset(params.stop_token_ids)
        plain = attrs.evolve(params, stop_token_ids=[])
        yield _with(job, params=plain, stop_token_ids=left)
    same = fault.job is not None and fault.job.request.request_id == request.request_id
    shorter = {fault.position + 1, fault.position + 2} if same else set()
    for most in sorted({1, *shorter, request.max_new_tokens // 2} - {0}):
        if most < request.max_new_tokens and most >= params.min_tokens:
            fewer = attrs.evolve(params, max_tokens=most)
            yield _with(job, params=fewer, max_new_tokens=most)
    prompt = request.prompt_token_ids
    half = len(prompt) // 2
    for part in (prompt[half:], prompt[:half], prompt[1:], prompt[:-1]):
        if part and part != prompt:
            yield _with(job, prompt_token_ids=part)
    if request.priority:
        yield _with(job, priority=0)


def _with_fewer_fields(job: Job) -> Iterator[Job]:
    """Yield the job without one bad word, or with the default of one field."""
    params = job.request.params
    words = job.request.bad_words_token_ids
    for index in range(len(words)):
        rest = (*words[:index], *words[index + 1 :])
        yield _with(job, bad_words_token_ids=rest)
    for name in changed_fields(params):
        if name in ("seed", "max_tokens", "ignore_eos", "stop_token_ids"):
            continue
        if name == "temperature" and params.greedy:
            continue
        fields = {name: getattr(_DEFAULTS, name)}
        grammar = {"grammar": None} if name == "structured_outputs" else {}
        yield _with(job, params=attrs.evolve(params, **fields), **grammar)


def _with(job: Job, **changes: Any) -> Job:
    return attrs.evolve(
        job,
        request=attrs.evolve(job.request, **changes),
        judged=attrs.evolve(job.judged, **changes),
    )
