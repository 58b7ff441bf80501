# SPDX-License-Identifier: Apache-2.0

"""The contract on engines in a process of their own.

The clauses about one loaded engine run always, all clauses in the session
`process_long`, where each of many clauses loads the model.
"""

from __future__ import annotations

import os
import signal
import sys

import pytest

from unillm.testing.contract import BackendContract
from unillm.testing.contract.aborts import AbortClauses
from unillm.testing.contract.ends import EndClauses
from unillm.testing.contract.limits import LimitClauses
from unillm.testing.contract.logprobs import LogprobClauses
from unillm.testing.contract.rows import RowClauses
from unillm.testing.contract.sampling import SamplingClauses


def kill_the_process(engine) -> None:
    os.kill(engine.pid, signal.SIGKILL)


class TestOneEngineInAProcess(
    EndClauses, RowClauses, AbortClauses, SamplingClauses, LogprobClauses, LimitClauses
):
    backend = "transformers"
    options = {"python": sys.executable}


@pytest.mark.large
class TestTransformersInAProcess(BackendContract):
    backend = "transformers"
    options = {"python": sys.executable}
    kill_engine = staticmethod(kill_the_process)
