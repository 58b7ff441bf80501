# SPDX-License-Identifier: Apache-2.0

"""A side of a comparison as a process of its own: started, asked, ended."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from .child import Child
from .verdict import Answer
from .worker import CONVERTER, Done, Ready, Task


@attrs.frozen(kw_only=True)
class Side:
    """Backend and interpreter of one side."""

    options: Mapping[str, Any] = attrs.field(factory=dict)
    """Options of `Generator`, ``backend`` among them, as JSON values."""
    python: str = sys.executable
    """Interpreter whose environment has unillm and the engine."""


@attrs.frozen(kw_only=True)
class SideReport:
    """The answers of one side to all prompts."""

    ready: Ready
    answers: Sequence[Answer]
    done: Done


def ask(
    side: Side, task: Task, prompts: Sequence[Any], *, show_log: bool = False
) -> SideReport:
    """Run one side to its end.

    Args:
        side: Backend and interpreter.
        task: Model and length of the answers; the options of *side* override its own.
        prompts: Prompts in any form that `Generator.generate` takes, as JSON values.
        show_log: Show the side's standard error on this process's.

    Raises:
        SideFailedError: The process cannot be started, ended early, or sent an error.
    """
    task = attrs.evolve(task, options={**task.options, **side.options})
    module = "unillm.comparison.worker"
    with Child(side.python, module, show_log=show_log) as child:
        child.send([attrs.asdict(task), *prompts, {"end": True}])
        return SideReport(
            ready=CONVERTER.structure(child.receive("ready"), Ready),
            answers=[
                CONVERTER.structure(child.receive("answer"), Answer) for _ in prompts
            ],
            done=CONVERTER.structure(child.receive("done"), Done),
        )
