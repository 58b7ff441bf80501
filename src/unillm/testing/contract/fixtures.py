# SPDX-License-Identifier: Apache-2.0

"""What an author says about a backend, and what the clauses are given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest

from ...engines.base import Support
from ..backends import reference_script
from .asking import Asker, Oracle, bundled_asker
from .clauses import Clause
from .subject import Subject

if TYPE_CHECKING:
    from ...engines.backend import Backend
    from ...engines.base import Engine
    from ...generator import Generator
    from .driving import DrivenEngine

_SUBJECT = pytest.StashKey[Subject]()


class RequiredSettings:
    """What everybody says who adopts the contract."""

    backend: str | Backend
    """Name of the installed backend; or one that is not installed, for the time of the
    tests."""


class OptionalSettings:
    """What some say, because their engine needs it."""

    waivers: Mapping[str, str] = MappingProxyType({})
    """Clauses that do not hold under these options alone, by number, each with the
    reason. Those that never hold are in `Backend.waivers`. A waived clause has to fail:
    one that holds is an error, so that the list shrinks."""

    model: str = "unillm/tiny"
    """The bundled model, or the directory of the same model in another form."""

    options: Mapping[str, Any] = MappingProxyType({})
    """What a `Generator` is given besides `subject.STANDARD_OPTIONS`, or instead."""

    patience_s: float = 60.0
    """Seconds that one call of the engine may take, and anything that should happen at
    once."""

    logprob_tolerance: float = 1e-3
    """How far a log-probability may be off, by rounding."""

    keep_engine: bool = True
    """Whether one engine serves many clauses, because making one takes long."""

    kill_engine: Callable[[Engine], None] | None = None
    """Makes a running engine die as a crash does. Write it as a static method."""


class ProvidedFixtures:
    """What the clauses use. Nobody overrides these."""

    failed = False
    """Whether the clause of this instance has failed."""

    @pytest.fixture
    def subject(self, request: pytest.FixtureRequest) -> Subject:
        """Return the backend under test, the same one for all clauses of the class."""
        node = request.node.getparent(pytest.Class)
        if _SUBJECT not in node.stash:
            settings: Any = self
            subject = Subject(
                settings.backend,
                model=settings.model,
                options=settings.options,
                patience_s=settings.patience_s,
                keep=settings.keep_engine,
                waivers=settings.waivers,
            )
            node.stash[_SUBJECT] = subject
            node.addfinalizer(subject.end)
        found: Subject = node.stash[_SUBJECT]
        return found

    @pytest.fixture(autouse=True)
    def _judged(self, request: pytest.FixtureRequest) -> Iterator[None]:
        """Apply the waivers, skip what is not declared, and tidy up afterwards."""
        clause: Clause | None = getattr(request.function, "clause", None)
        if clause is None:
            yield
            return
        subject: Subject = request.getfixturevalue("subject")
        if reason := subject.waivers.get(clause.number):
            request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
        for field in clause.needs:
            capability = subject.capabilities.of(field)
            if capability.support is Support.UNSUPPORTED:
                pytest.skip(f"not declared: {field} ({capability.reason})")
        yield
        subject.after_clause(failed=self.failed)

    @pytest.fixture
    def engine(self, subject: Subject) -> DrivenEngine:
        """Return an engine to drive; nothing is under way."""
        return subject.engine()

    @pytest.fixture
    def generator(self, subject: Subject) -> Generator:
        """Return a generator; nothing is under way."""
        return subject.generator()

    @pytest.fixture
    def ask(self) -> Asker:
        """Return what makes requests."""
        return bundled_asker()

    @pytest.fixture
    def oracle(self) -> Oracle:
        """Return what knows the answers."""
        return Oracle(reference_script())

    @pytest.fixture
    def tolerance(self) -> float:
        """Return how far a log-probability may be off."""
        settings: Any = self
        tolerance: float = settings.logprob_tolerance
        return tolerance

    @pytest.fixture
    def soon_s(self) -> float:
        """Return how long may take what should happen at once."""
        settings: Any = self
        patience: float = settings.patience_s
        return patience

    @pytest.fixture
    def kill(self) -> Callable[[Engine], None] | None:
        """Return what makes an engine die, if something can."""
        settings: Any = self
        kill: Callable[[Engine], None] | None = settings.kill_engine
        return kill
