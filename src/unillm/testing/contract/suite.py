# SPDX-License-Identifier: Apache-2.0

"""All clauses in one class, and what keeps an adopted contract honest."""

from __future__ import annotations

import inspect

from .aborts import AbortClauses
from .calls import CallClauses
from .clauses import clauses_of
from .closing import ClosingClauses
from .ends import EndClauses
from .fixtures import OptionalSettings, ProvidedFixtures, RequiredSettings
from .limits import LimitClauses
from .logprobs import LogprobClauses
from .rows import RowClauses
from .sampling import SamplingClauses
from .subject import Subject
from .text import TextClauses


class BackendContract(
    EndClauses,
    RowClauses,
    AbortClauses,
    SamplingClauses,
    LogprobClauses,
    LimitClauses,
    ClosingClauses,
    TextClauses,
    CallClauses,
    ProvidedFixtures,
    OptionalSettings,
    RequiredSettings,
):
    """The whole contract. Subclass it with a name that begins with ``Test``."""

    def test_the_contract_is_whole(self, subject: Subject) -> None:
        """No clause is replaced, and every waiver names a clause and has a reason."""
        clauses = clauses_of(BackendContract)
        for name in clauses:
            own = inspect.getattr_static(type(self), name)
            assert own is inspect.getattr_static(BackendContract, name), (
                f"{name} is replaced; a clause that does not hold needs a waiver"
            )
        numbers = {clause.number for clause in clauses.values()}
        waivers = subject.waivers
        unknown = ", ".join(waivers.keys() - numbers)
        assert not unknown, f"they name what is no clause: {unknown}"
        silent = ", ".join(n for n, reason in waivers.items() if not reason.strip())
        assert not silent, f"they have no reason: {silent}"
