# SPDX-License-Identifier: Apache-2.0

"""Each broken backend fails the clause about its defect.

A class for each backend adopts the contract, and the backend waives the clauses that
have to fail. A waived clause that passes is an error, and so is another clause that
fails. The latter needs the whole contract for each backend, which is marked ``large``.
"""

from __future__ import annotations

import pytest
from testing.broken import ends, lives, rows, sampling  # noqa: F401 - they register
from testing.broken.bases import BROKEN, SETTINGS

from unillm.testing.contract import BackendContract, clauses_of

CLAUSES = clauses_of(BackendContract)

THE_CORES = {"G1", "G12", "G13", "G14", "G15", "T8"}
"""Clauses about the core and the `Backend`, which no engine can break."""


RANDOM = {"R11", "R12"}
"""Clauses that see every defect, if their requests happen to meet it."""


class Breaks(BackendContract):
    """The contract on a broken backend."""

    sometimes: frozenset[str]

    @pytest.fixture(autouse=True)
    def _may_fail(self, request):
        clause = getattr(request.function, "clause", None)
        if clause is not None and clause.number in self.sometimes | RANDOM:
            reason = "threads and random requests see it, or do not"
            request.applymarker(pytest.mark.xfail(reason=reason, strict=False))


def adopt(broken, *, whole):
    own = {broken.caught_by, *broken.seen_by}
    left_out = [n for n, c in CLAUSES.items() if c.number not in own]
    settings = {
        "__doc__": broken.breaks,
        "backend": broken.backend(),
        "sometimes": broken.sometimes,
    }
    settings = {**SETTINGS, **settings, **broken.settings}
    if whole:
        name = f"TestAllOf{broken.name}"
        return name, pytest.mark.large(type(name, (Breaks,), settings))
    name = f"Test{broken.name}"
    none = dict.fromkeys([*left_out, "test_the_contract_is_whole"])
    return name, type(name, (Breaks,), {**settings, **none})


globals().update(adopt(broken, whole=False) for broken in BROKEN)
globals().update(adopt(broken, whole=True) for broken in BROKEN)


def test_there_are_at_least_eighty_broken_backends():
    names = {each.name for each in BROKEN}

    assert len(names) == len(BROKEN) >= 80


@pytest.mark.parametrize("number", sorted(c.number for c in CLAUSES.values()))
def test_every_clause_fails_on_some_engine(number):
    fails_on = [
        each.name for each in BROKEN if number in {each.caught_by, *each.seen_by}
    ]

    assert bool(fails_on) is (number not in THE_CORES)


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.name)
def test_every_defect_names_existing_clauses(broken):
    numbers = {clause.number for clause in CLAUSES.values()}

    assert {broken.caught_by, *broken.seen_by, *broken.sometimes} <= numbers
    assert broken.caught_by not in broken.seen_by
