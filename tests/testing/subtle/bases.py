# SPDX-License-Identifier: Apache-2.0

"""The register of engines that are right for most requests.

Each one breaks a rule that the clauses, one field at a time, would let pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from testing.broken.bases import CAPABILITIES, Own

from unillm.engines.backend import Backend
from unillm.engines.base import Engine
from unillm.testing.backends import ScriptedBackend, reference_script
from unillm.testing.reference import ReferenceScript


@attrs.frozen(kw_only=True)
class Subtle:
    """A backend with one defect."""

    name: str
    breaks: str
    make_engine: Callable[[Any], Engine]
    found_by: str
    """A pattern in the message of the random run."""

    def backend(self) -> Backend:
        return ScriptedBackend(
            self.make_engine, name=self.name.lower(), capabilities=CAPABILITIES
        )


SUBTLE: list[Subtle] = []

TOKEN = "score|not as frequent|logprob"
"""A token is wrong, which shows by itself or among many."""


def subtle(found_by: str):
    """Register an engine class, or a script on which `Own` runs.

    Args:
        found_by: A pattern in the message of the random run.
    """

    def register(defect):
        make = defect
        if issubclass(defect, ReferenceScript):
            script = defect(reference_script().model)
            make = type(defect.__name__, (Own,), {"reference": lambda _: script})
        elif not issubclass(defect, Engine):
            make = defect.scheduled
        SUBTLE.append(
            Subtle(
                name=defect.__name__,
                breaks=defect.__doc__,
                make_engine=make,
                found_by=found_by,
            )
        )
        return defect

    return register
