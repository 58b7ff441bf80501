# SPDX-License-Identifier: Apache-2.0

"""The contract as tests: adopt one class and know whether a backend holds it.

In the tests of a backend::

    from unillm.testing.contract import BackendContract

    class TestMyBackend(BackendContract):
        backend = "mybackend"

Each test is one clause of the page "The contract for plugin authors"; its docstring is
the clause, and then where to look when it fails. Needs the extra ``unillm[testing]``.
"""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite(
    f"{__name__}.aborts",
    f"{__name__}.calls",
    f"{__name__}.closing",
    f"{__name__}.ends",
    f"{__name__}.limits",
    f"{__name__}.logprobs",
    f"{__name__}.rows",
    f"{__name__}.sampling",
    f"{__name__}.text",
)

from .clauses import Clause, clauses_of  # noqa: E402 - after what it imports is named
from .suite import BackendContract  # noqa: E402

__all__ = ["BackendContract", "Clause", "clauses_of"]
