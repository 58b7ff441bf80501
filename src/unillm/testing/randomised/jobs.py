# SPDX-License-Identifier: Apache-2.0

"""A session: requests that join an engine step by step, some of them aborted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from ...errors import RequestError

if TYPE_CHECKING:
    from ...engines.base import EngineOutput, EngineRequest
    from ..driving import DrivenEngine


@attrs.frozen(kw_only=True)
class Job:
    """One request of a session, and when it joins and leaves."""

    request: EngineRequest
    """As the engine gets it."""
    judged: EngineRequest
    """The same request with its compiled grammar, for the oracle."""
    joins: int = 0
    """Steps of the session before it is added."""
    abort_after: int | None = None
    """New tokens after which it is aborted; `None` for never."""
    again: bool = False
    """Whether it is added once more, under its id, after its abort."""
    repeats: bool = False
    """Whether an earlier request had the same fields and seed, so that the draws of
    this one are no further ones."""


@attrs.frozen(kw_only=True)
class Played:
    """The answers of an engine in a session."""

    outputs: Mapping[str, Sequence[EngineOutput]]
    """By request id: the outputs since the request was last added."""
    aborted: frozenset[str]
    """Requests that were aborted and not added again."""
    refused: Mapping[str, str]
    """By request id: why `add_request` refused it."""
    late: Mapping[str, str]
    """By request id: an output that came after the end or the abort."""
    death: str = ""
    """The error of a dead engine, or the reason to give it up; empty if it lives."""


def play(engine: DrivenEngine, jobs: Sequence[Job]) -> Played:
    """Drive an idle engine through a session."""
    session = _Session(engine, jobs)
    try:
        session.run()
    except Exception as error:  # noqa: BLE001 - an engine may raise anything
        session.death = f"{type(error).__name__}: {error}"
    return Played(
        outputs=session.outputs,
        aborted=frozenset(session.gone),
        refused=session.refused,
        late=session.late,
        death=session.death,
    )


class _Session:
    def __init__(self, engine: DrivenEngine, jobs: Sequence[Job]) -> None:
        self._engine = engine
        self._jobs = {job.request.request_id: job for job in jobs}
        self._next = sorted(jobs, key=lambda job: job.joins)
        self._counts = dict.fromkeys(self._jobs, 0)
        self._aborts = {
            name: job.abort_after
            for name, job in self._jobs.items()
            if job.abort_after is not None
        }
        self._ended: set[str] = set()
        self.outputs: dict[str, list[EngineOutput]] = {name: [] for name in self._jobs}
        self.gone: set[str] = set()
        self.refused: dict[str, str] = {}
        self.late: dict[str, str] = {}
        self.death = ""

    def run(self) -> None:
        step = 0
        while self._next or self._engine.unfinished:
            while self._next and (
                self._next[0].joins <= step or not self._engine.unfinished
            ):
                self._add(self._next.pop(0).request)
            if not self._engine.unfinished:
                continue
            for output in self._engine.step():
                self._take(output)
            self._abort()
            step += 1
            if step > self._engine.MAX_STEPS:
                self.death = f"requests have not ended after {step} steps"
                return

    def _add(self, request: EngineRequest) -> None:
        try:
            self._engine.add(request)
        except RequestError as error:
            self.refused[request.request_id] = f"{type(error).__name__}: {error}"

    def _take(self, output: EngineOutput) -> None:
        name = output.request_id
        if name not in self._jobs or name in self._ended | self.gone:
            self.late.setdefault(name, str(output))
            return
        self.outputs[name].append(output)
        self._counts[name] += len(output.token_ids)
        if output.finish_reason is not None:
            self._ended.add(name)

    def _abort(self) -> None:
        """Abort the requests that have the tokens for it, and add some again."""
        for name, count in list(self._aborts.items()):
            if name in self._ended:
                del self._aborts[name]
            elif self._counts[name] >= count:
                del self._aborts[name]
                self._engine.abort(name)
                if self._jobs[name].again:
                    self.outputs[name] = []
                    self._add(self._jobs[name].request)
                else:
                    self.gone.add(name)
