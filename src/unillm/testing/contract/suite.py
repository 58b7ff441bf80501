# SPDX-License-Identifier: Apache-2.0

"""All clauses in one class, and the check of an adopted contract."""

from __future__ import annotations

import inspect

from ..subject import Subject
from .aborts import AbortClauses
from .calls import CallClauses
from .clauses import clauses_of
from .closing import ClosingClauses
from .ends import EndClauses
from .limits import LimitClauses
from .logprobs import LogprobClauses
from .rows import RowClauses
from .sampling import SamplingClauses
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
):
    """The whole contract. The name of a subclass begins with ``Test``."""

    def test_the_contract_is_whole(self, subject: Subject) -> None:
        """No clause is overridden, and every waiver names a clause and has a reason."""
        clauses = clauses_of(BackendContract)
        for name in clauses:
            own = inspect.getattr_static(type(self), name)
            assert own is inspect.getattr_static(BackendContract, name), (
                f"{name} is overridden; a clause that fails needs a waiver"
            )
        numbers = {clause.number for clause in clauses.values()}
        waivers = subject.waivers
        unknown = ", ".join(waivers.keys() - numbers)
        assert not unknown, f"waivers of unknown clauses: {unknown}"
        silent = ", ".join(n for n, reason in waivers.items() if not reason.strip())
        assert not silent, f"waivers without a reason: {silent}"
