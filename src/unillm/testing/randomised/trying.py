# SPDX-License-Identifier: Apache-2.0

"""Sessions tried on one backend: played, judged, and their faults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import attrs

from ..asking import bundled_asker
from ..subject import Subject
from .jobs import Job, play
from .judging import Draw, Judge

if TYPE_CHECKING:
    from ...engines.backend import Backend


@attrs.frozen(kw_only=True)
class Target:
    """The backend under test, with the settings that `Subject` reads."""

    backend: str | Backend
    model: str = "unillm/tiny"
    options: Mapping[str, Any] = MappingProxyType({})
    waivers: Mapping[str, str] = MappingProxyType({})
    patience_s: float = 60.0
    logprob_tolerance: float = 1e-3
    keep_engine: bool = True


@attrs.frozen(kw_only=True)
class Fault:
    """The first wrong answer of a session."""

    message: str
    job: Job | None
    """The request; `None` if the whole engine failed."""
    position: int = 0
    """New tokens before the fault."""


@attrs.frozen(kw_only=True)
class Tried:
    """A session on the engine."""

    fault: Fault | None
    draws: Sequence[Draw]
    """Those of requests that repeat no earlier one."""
    tokens: Mapping[str, tuple[int, ...]]
    """New ids of each request that ended, by its id."""


class Trial:
    """Plays sessions on an engine of the backend, which a fault replaces by a new one.

    Args:
        subject: Creates engines.
        logprob_tolerance: Rounding error that a log-probability may have.
    """

    def __init__(self, subject: Subject, *, logprob_tolerance: float = 1e-3) -> None:
        self.subject = subject
        self._judge = Judge(bundled_asker().script, logprob_tolerance=logprob_tolerance)

    def try_session(self, jobs: Sequence[Job], *, fresh: bool = False) -> Tried:
        """Play a session and judge it.

        Args:
            jobs: Its requests.
            fresh: Whether to use a new engine.
        """
        if fresh:
            self.subject.close()
        played = play(self.subject.engine(), jobs)
        idle = not played.death and self.subject.engine().restart()
        if not idle:
            self.subject.close()
        faults: list[Fault] = []
        draws: list[Draw] = []
        tokens: dict[str, tuple[int, ...]] = {}
        for job in jobs:
            name = job.request.request_id
            aborted = name in played.aborted
            if reason := played.refused.get(name):
                faults.append(Fault(message=f"it was refused: {reason}", job=job))
                continue
            outputs = played.outputs[name]
            unfinished = aborted or bool(played.death)
            verdict = self._judge.judge(job.judged, outputs, aborted=unfinished)
            if not job.repeats:
                draws += verdict.draws
            if verdict.fault:
                faults.append(
                    Fault(message=verdict.fault, job=job, position=verdict.position)
                )
            elif late := played.late.get(name):
                faults.append(
                    Fault(message=f"an output came after its end: {late}", job=job)
                )
            elif not unfinished:
                ids = [each for output in outputs for each in output.token_ids]
                tokens[name] = tuple(ids)
        if played.death:
            faults.insert(0, Fault(message=f"the engine: {played.death}", job=None))
        fault = faults[0] if faults else None
        return Tried(fault=fault, draws=draws, tokens=tokens)
