# SPDX-License-Identifier: Apache-2.0

"""Random traffic and faults over the real schedulers and driver, and a proof of it.

`simulate` runs the driver's loop and a scheduler under a clock, a random source and an
executor of its own, over an engine that says what a script says and fails when it is
told to. What happened is a `History`; `check` reads nothing else, and knows nothing of
the code under test. The same seed gives the same history, event by event::

    python -m simulator --requests 100000 --seeds 0:10

Light to import: no torch, no engine.
"""

from .checker import Violation, check
from .history import History
from .world import World, simulate

__all__ = ["History", "Violation", "World", "check", "simulate"]
