# SPDX-License-Identifier: Apache-2.0

"""Random traffic and faults over the real schedulers and driver, and a proof of each run.

`simulate` runs the driver's loop and a scheduler over an engine that follows a script
and fails at random; the clock, the random source and the executor are the simulation's
own. It returns a `History`. `check` reads nothing but that history, and imports no code
under test. A seed always gives the same history::

    PYTHONPATH=tests python -m simulator --requests 100000 --seeds 0:10

The package imports no torch.
"""

from .checker import Violation, check
from .history import History
from .world import World, simulate

__all__ = ["History", "Violation", "World", "check", "simulate"]
