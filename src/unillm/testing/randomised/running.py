# SPDX-License-Identifier: Apache-2.0

"""`run_random`: many random requests on one backend, until the first fault."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import attrs

from ...params import SamplingParams
from ..asking import bundled_asker
from ..subject import Subject
from .frequencies import ERROR_RATE, Frequencies
from .jobs import Job
from .program import DRAWS, program_of, uneven_draws
from .requests import RequestSource, changed_fields
from .shrinking import Shrinker
from .trying import Fault, Target, Trial
from .twins import Twins

if TYPE_CHECKING:
    from ...engines.backend import Backend

PREFIX_CACHING = "enable_prefix_caching"
"""The engine option that promises to change no token."""


@attrs.frozen(kw_only=True)
class Report:
    """The result of a random run."""

    backend: str
    seed: int
    requests: int
    """Requests that were judged."""
    tokens: int
    """New tokens that were judged."""
    draws: int
    """Tokens of them that were drawn, but for those of repeated requests."""
    groups: int
    """Groups of fields whose frequencies were compared."""
    error_rate: float
    """Probability at most that a correct engine fails for its frequencies."""
    fault: str = ""
    """The first fault; empty if there is none."""
    program: str = ""
    """A program that shows the fault in few requests; empty if it did not happen again
    alone."""

    @property
    def conforms(self) -> bool:
        """Whether no fault was found."""
        return not self.fault


def run_random(
    backend: str | Backend,
    *,
    requests: int,
    seed: int = 0,
    model: str = "unillm/tiny",
    options: Mapping[str, Any] = MappingProxyType({}),
    shrink: bool = True,
    on_session: Callable[[int], None] = lambda _: None,
) -> Report:
    """Run random requests on a backend, judge every token, and shrink the first fault.

    The second half of the requests has ``enable_prefix_caching=True``, if the backend
    takes the option here and the caller does not set it. A prefix cache changes no
    token.

    Args:
        backend: Name of an installed backend, or a backend.
        requests: How many.
        seed: The same seed makes the same requests.
        model: The bundled model, or the same one in another form.
        options: Options of the `Generator`.
        shrink: Whether to look for a short program that shows the fault.
        on_session: Called with the number of requests after each session.

    Raises:
        BackendNotFoundError: The backend is not installed.
        BackendUnavailableError: It cannot run here.
    """
    target = Target(backend=backend, model=model, options=options)
    subject = Subject(target)
    with contextlib.ExitStack() as stack:
        stack.callback(subject.end)
        random_run = RandomRun(subject, seed=seed, shrink=shrink, on_session=on_session)
        caches = PREFIX_CACHING in subject.backend.engine_options
        if not caches or PREFIX_CACHING in options:
            return random_run.run(requests)
        report = random_run.run(requests // 2)
        if not report.conforms:
            return report
        subject.close()
        if not subject.takes(**{PREFIX_CACHING: True}):
            return random_run.run(requests - requests // 2)
        subject.options[PREFIX_CACHING] = True
        return random_run.run(requests - requests // 2)


class RandomRun:
    """Random requests on the engines of a subject, until the first fault.

    Args:
        subject: Creates engines.
        seed: The same seed makes the same requests.
        shrink: Whether to look for a short program that shows a fault.
        on_session: Called with the number of requests after each session.
    """

    def __init__(
        self,
        subject: Subject,
        *,
        seed: int,
        shrink: bool = True,
        on_session: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._subject = subject
        self._shrinks = shrink
        self._seed = seed
        self._on_session = on_session
        self._trial = Trial(subject)
        self._frequencies = Frequencies()
        self._twins = Twins(bundled_asker().script.scores, spared=1)
        self._source: RequestSource | None = None
        self._requests = 0
        self._tokens = 0

    def run(self, requests: int) -> Report:
        """Run so many more requests; return the report on all of them."""
        if self._source is None:
            self._source = RequestSource(
                bundled_asker(),
                self._subject.capabilities,
                self._subject.engine().limits,
                self._seed,
            )
        until = self._requests + requests
        while self._requests < until:
            jobs = self._source.session(until - self._requests)
            if found := self._session(jobs):
                return self._report(*found)
        uneven = self._frequencies.uneven(all_groups=True)
        return self._report(*(self._uneven(uneven) if uneven is not None else ("", "")))

    def _session(self, jobs: Sequence[Job]) -> tuple[str, str] | None:
        """Try a session; return the message and the program of a fault."""
        tried = self._trial.try_session(jobs)
        self._requests += len(jobs)
        self._tokens += sum(map(len, tried.tokens.values()))
        self._on_session(len(jobs))
        if tried.fault is not None:
            return self._shrunk(jobs, tried.fault)
        if found := self._twins.fault_of(jobs, tried):
            message, twins = found
            return message, self._program(twins)
        for draw in tried.draws:
            self._frequencies.add(draw)
        uneven = self._frequencies.uneven()
        return None if uneven is None else self._uneven(uneven)

    def _shrunk(self, jobs: Sequence[Job], fault: Fault) -> tuple[str, str]:
        if not self._shrinks:
            return _named(fault), self._program(jobs)
        found = Shrinker(self._trial).shrink(jobs, fault)
        if found is None:
            return f"{_named(fault)} It did not happen again on a new engine.", ""
        jobs, fault = found
        return _named(fault), self._program(jobs)

    def _uneven(self, key: tuple[str, ...]) -> tuple[str, str]:
        group = self._frequencies.groups[key]
        kind = " and ".join(key) or "all fields"
        message = (
            f"{group.total} draws of requests with {kind} are not as frequent as the "
            f"model's probabilities after the rules and filters of their requests: "
            f"chance would do this with a probability of {group.probability():.1e}."
        )
        for request in group.requests.values() if self._shrinks else ():
            job = Job(request=request, judged=request)
            if found := uneven_draws(self._trial, job, DRAWS):
                job, found = self._fewer_fields(job, found)
                return f"{message}\n{found}", self._program([job], draws=DRAWS)
        return message, ""

    def _fewer_fields(self, job: Job, found: str) -> tuple[Job, str]:
        """Leave out fields as long as the draws of a request are uneven."""
        defaults = SamplingParams()
        for name in changed_fields(job.request.params):
            if name in ("seed", "max_tokens", "temperature", "ignore_eos"):
                continue
            fields = {name: getattr(defaults, name)}
            params = attrs.evolve(job.request.params, **fields)
            request = attrs.evolve(job.request, params=params)
            if name == "stop_token_ids":
                continue
            tried = Job(request=request, judged=request)
            if still := uneven_draws(self._trial, tried, DRAWS):
                job, found = tried, still
        return job, found

    def _program(self, jobs: Sequence[Job], *, draws: int = 0) -> str:
        return program_of(
            self._subject.backend.name,
            jobs,
            model=self._subject.model,
            options=self._subject.options,
            draws=draws,
        )

    def _report(self, fault: str, program: str) -> Report:
        return Report(
            backend=self._subject.backend.name,
            seed=self._seed,
            requests=self._requests,
            tokens=self._tokens,
            draws=self._frequencies.draws,
            groups=len(self._frequencies.groups),
            error_rate=ERROR_RATE,
            fault=fault,
            program=program,
        )


def _named(fault: Fault) -> str:
    if fault.job is None:
        return f"In a session, {fault.message}."
    return f"In {fault.job.request.request_id}, {fault.message}."
