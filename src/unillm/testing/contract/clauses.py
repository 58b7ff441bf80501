# SPDX-License-Identifier: Apache-2.0

"""A clause: its number, its sentence, and the sampling fields that it needs."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any

import attrs

Test = Callable[..., None]

CORE = frozenset("ERASPL")
"""Groups of clauses about the engine itself; one loaded engine serves them all."""


@attrs.frozen(kw_only=True)
class Clause:
    """One numbered sentence of the contract."""

    number: str
    """Letter of the group and counter: ``"E3"``."""
    statement: str
    """The start of the test's docstring, in the present tense."""
    advice: str = ""
    """The rest of the docstring: what to look at after a failure."""
    file: str = ""
    """File and line of the test."""
    needs: tuple[str, ...] = ()
    """Sampling fields and aspects that the backend has to declare. Without one, the
    clause is skipped, and G6 shows that it is refused."""

    @property
    def is_core(self) -> bool:
        """Whether it is about the engine rather than calls, text or closing."""
        return self.number[0] in CORE

    @property
    def order(self) -> tuple[str, int]:
        """Group, then counter."""
        return self.number[0], int(self.number[1:])


def clause(*needs: str) -> Callable[[Test], Test]:
    """Make a test method a clause of the contract; its name begins with the number.

    After a failure the next clause gets a new engine.

    Args:
        needs: Sampling fields and aspects that the backend has to declare.
    """

    def decorate(test: Test) -> Test:
        @functools.wraps(test)
        def run(self: Any, **fixtures: Any) -> None:
            try:
                test(self, **fixtures)
            except Exception:
                self.failed = True
                raise

        run.clause = Clause(  # type: ignore[attr-defined]
            number=_number(test),
            statement=_statement(test),
            advice=_advice(test),
            file=f"{inspect.getfile(test)}:{test.__code__.co_firstlineno}",
            needs=needs,
        )
        return run

    return decorate


def clauses_of(contract: type) -> dict[str, Clause]:
    """Return the clauses of a class by the names of their tests, in order."""
    tests = inspect.getmembers(contract, lambda value: hasattr(value, "clause"))
    return dict(sorted(((n, t.clause) for n, t in tests), key=lambda e: e[1].order))


def _number(test: Test) -> str:
    found = re.match(r"test_([a-z])(\d+)_", test.__name__)
    assert found, f"{test.__qualname__} has no number"
    return found[1].upper() + found[2]


def _statement(test: Test) -> str:
    """Return a docstring up to *Troubleshooting*, on one line."""
    text = inspect.getdoc(test) or ""
    statement, _, advice = text.partition("Troubleshooting:")
    assert statement, f"{test.__qualname__} has no statement"
    assert advice, f"{test.__qualname__} has no advice"
    return re.sub(r"\s+", " ", statement).strip()


def _advice(test: Test) -> str:
    """Return a docstring from *Troubleshooting* on, on one line."""
    _, _, advice = (inspect.getdoc(test) or "").partition("Troubleshooting:")
    return re.sub(r"\s+", " ", advice).strip()
