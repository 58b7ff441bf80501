# SPDX-License-Identifier: Apache-2.0

"""Random requests on a backend, each judged token by token by the oracle.

Needs no pytest.
"""

from .program import replay
from .running import Report, run_random

__all__ = ["Report", "replay", "run_random"]
