# SPDX-License-Identifier: Apache-2.0

"""What a clause is: a number, a sentence, and the sampling fields that it is about."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any

import attrs

Test = Callable[..., None]

CORE = frozenset("ERASPL")
"""Groups of clauses about the engine itself: one that is loaded once shows them all."""


@attrs.frozen(kw_only=True)
class Clause:
    """One numbered sentence of the contract."""

    number: str
    """A letter for the group and a counter, as in ``"E3"``."""
    statement: str
    """What holds, in the present tense: the start of the test's docstring."""
    needs: tuple[str, ...] = ()
    """Sampling fields that the backend has to declare; else the clause is not shown,
    and another one shows that the fields are refused."""

    @property
    def is_core(self) -> bool:
        """Whether it is about the engine, and not about calls, text or closing."""
        return self.number[0] in CORE

    @property
    def order(self) -> tuple[str, int]:
        """By group, then by counter."""
        return self.number[0], int(self.number[1:])


def clause(*needs: str) -> Callable[[Test], Test]:
    """Make a test method a clause of the contract; its name begins with the number.

    What the test left behind is not trusted when it fails: the next one gets an engine
    of its own.

    Args:
        needs: Sampling fields that the backend has to declare.
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
            number=_number(test), statement=_statement(test), needs=needs
        )
        return run

    return decorate


def clauses_of(contract: type) -> dict[str, Clause]:
    """Return the clauses of a class by the names of their tests, in their order."""
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
    assert statement, f"{test.__qualname__} states nothing"
    assert advice, f"{test.__qualname__} does not say where to look"
    return re.sub(r"\s+", " ", statement).strip()
