# SPDX-License-Identifier: Apache-2.0

"""The death of an engine inside of an actor."""

from __future__ import annotations

import logging
import os
from typing import NoReturn

from unillm.errors import EngineError

log = logging.getLogger("unillm.ray")

MAX_RESTARTS = 5
"""How often Ray starts an actor anew before the job fails. Ray's default is for ever,
also for a prompt that ends each process. Counting the repetitions of a task would not
do: Ray counts each attempt to reach an actor whose node has just died."""


def end_process(error: EngineError) -> NoReturn:
    """End the process: Ray starts the actor anew and repeats its tasks.

    An exception would fail the whole job, and an actor that leaves in form is not
    replaced.
    """
    log.critical("the engine died, and its process ends: %s", error)
    os._exit(1)
