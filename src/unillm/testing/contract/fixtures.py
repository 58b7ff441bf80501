# SPDX-License-Identifier: Apache-2.0

"""The fixtures of the clauses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from ...engines.backend import Sometimes
from ..asking import Asker, bundled_asker
from ..subject import Subject
from .clauses import Clause
from .settings import ContractSettings

if TYPE_CHECKING:
    from ...generator import Generator
    from ..driving import DrivenEngine

_SUBJECT = pytest.StashKey[Subject]()


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
            strict = not isinstance(reason, Sometimes)
            request.applymarker(pytest.mark.xfail(reason=reason, strict=strict))
        for name in clause.needs:
            if not subject.declares(name):
                reason = subject.capabilities.of(name).reason
                pytest.skip(f"not declared: {name} ({reason})")
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
