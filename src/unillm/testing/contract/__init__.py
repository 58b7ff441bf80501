# SPDX-License-Identifier: Apache-2.0

"""The contract as tests: a test class adopts it and checks a backend.

In the tests of a backend::

    from unillm.testing.contract import BackendContract

    class TestMyBackend(BackendContract):
        backend = "mybackend"

Each test is one clause of the page "The contract for plugin authors". Its docstring is
the clause, followed by advice for a failure. Needs the extra ``[testing]``.
"""

from __future__ import annotations

import pytest

_GROUPS = "aborts calls closing ends limits logprobs rows sampling text"
pytest.register_assert_rewrite(*(f"{__name__}.{group}" for group in _GROUPS.split()))

from .clauses import Clause, clauses_of  # noqa: E402 - after its modules are named
from .suite import BackendContract  # noqa: E402

__all__ = ["BackendContract", "Clause", "clauses_of"]
