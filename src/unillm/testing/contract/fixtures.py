# SPDX-License-Identifier: Apache-2.0

"""The settings of an adopted contract, and the fixtures of its clauses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest

from ...engines.base import Support
from .asking import Asker, bundled_asker
from .clauses import Clause
from .subject import Subject

if TYPE_CHECKING:
    from ...engines.backend import Backend
    from ...engines.base import Engine
    from ...generator import Generator
    from .driving import DrivenEngine

_SUBJECT = pytest.StashKey[Subject]()


class ContractSettings:
    """The settings of an adopted contract; only `backend` is required."""

    backend: str | Backend
    """Name of an installed backend, or a backend to register during the tests."""

    waivers: Mapping[str, str] = MappingProxyType({})
    """Numbers of clauses that fail under these options alone, each with the reason.

    `Backend.waivers` has those that always fail. A waived clause that passes is an
    error, so that the list shrinks."""

    model: str = "unillm/tiny"
    """The bundled model, or the directory of the same model in another form."""

    options: Mapping[str, Any] = MappingProxyType({})
    """Options of the `Generator`, added to or instead of `subject.STANDARD_OPTIONS`."""

    patience_s: float = 60.0
    """Limit of one call of the engine, in seconds."""

    logprob_tolerance: float = 1e-3
    """Rounding error that a log-probability may have."""

    keep_engine: bool = True
    """Whether one engine serves many clauses, because loading takes long."""

    kill_engine: Callable[[Engine], None] | None = None
    """Makes a running engine die as a crash does; a static method."""


class Clauses(ContractSettings):
    """A group of clauses, with the fixtures that they use."""

    failed = False
    """Whether the clause of this instance has failed."""

    @pytest.fixture
    def subject(self, request: pytest.FixtureRequest) -> Subject:
        """Return the backend under test, the same one for all clauses of the class."""
        node = request.node.getparent(pytest.Class)
        if _SUBJECT not in node.stash:
            node.stash[_SUBJECT] = Subject(self)
            node.addfinalizer(node.stash[_SUBJECT].end)
        found: Subject = node.stash[_SUBJECT]
        return found

    @pytest.fixture(autouse=True)
    def _judged(self, request: pytest.FixtureRequest) -> Iterator[None]:
        """Apply waivers, skip undeclared fields, and tidy up after the clause."""
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
        """Return an idle engine to drive."""
        return subject.engine()

    @pytest.fixture
    def generator(self, subject: Subject) -> Generator:
        """Return an idle generator."""
        return subject.generator()

    @pytest.fixture
    def ask(self) -> Asker:
        """Return the maker of requests."""
        return bundled_asker()
