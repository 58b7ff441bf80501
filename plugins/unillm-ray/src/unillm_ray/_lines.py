# SPDX-License-Identifier: Apache-2.0

"""`LineAnswerer`: the state of one actor that answers lines of jobs. Without Ray.

Ray calls it on several threads at once, so that a long line holds up the group that it
belongs to and not the engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unillm import Generator
from unillm.errors import EngineError, QueueFullError
from unillm.jobs import Answer, Line, LocalWorker

from ._deaths import end_process

RETRY_S = 0.1
"""Time between two tries of a line for which the queue has no place."""


class LineAnswerer:
    """Answers groups of lines.

    Args:
        model: Directory, hub id, or the bundled model.
        answering: Arguments of `LocalWorker` for names and answers.
        options: Arguments of `Generator`.
    """

    def __init__(
        self, model: str, answering: Mapping[str, Any], options: Mapping[str, Any]
    ) -> None:
        self._generator = Generator(model, **options)
        self._answering = dict(answering)

    def ready(self) -> None:
        """Return when the model is loaded."""

    def answer(self, lines: Sequence[Line]) -> list[Answer]:
        """Return the answers of *lines*, in any order."""
        # One thread calls all methods of a worker; the generator is safe for many.
        worker = LocalWorker(self._generator, **self._answering)
        worker.open()
        found: list[Answer] = []
        try:
            for line in lines:
                while not _submitted(worker, line):
                    found += worker.answers(RETRY_S)  # others may fill the queue
            while len(found) < len(lines):
                found += worker.answers(None)
        except EngineError as error:
            end_process(error)
        finally:
            worker.close()
        return found

    def __del__(self) -> None:
        # Ray drops the object when the actor ends.
        if (generator := getattr(self, "_generator", None)) is not None:
            generator.close()


def _submitted(worker: LocalWorker, line: Line) -> bool:
    """Submit a line; false if the queue is full and others will leave it."""
    try:
        worker.submit(line)
    except QueueFullError:
        return False
    return True
