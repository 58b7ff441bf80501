# SPDX-License-Identifier: Apache-2.0

"""Lines of a batch file, their answers, and the protocol of what answers them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec


class Line(msgspec.Struct, frozen=True):
    """One request of a batch file. Made by the job; may be pickled."""

    index: int
    """Number of the line among all lines of the input, from 0."""
    url: str
    """Path of the endpoint, such as ``/v1/chat/completions``."""
    body: bytes
    """JSON text of what the endpoint takes."""
    request_id: str
    """Id of the answer; the same in each run of the job."""
    created: int
    """Seconds since the epoch at which the job began, for the answer."""
    seed: int
    """Seed of a request that sets none and is not greedy; the same in each run."""
    is_row: bool = False
    """Whether the answer goes into columns of a table, which hold one text. Then
    `Answer.body` is empty unless the line failed."""


class Answer(msgspec.Struct, frozen=True):
    """The answer of an endpoint to one line. May be pickled."""

    index: int
    """Number of the line."""
    status: int
    """Status that ``unillm serve`` would answer with; 200 for a good line."""
    body: bytes
    """JSON text that ``unillm serve`` would answer; for a failed line, the error."""
    text: str | None = None
    """Generated text of a row."""
    finish_reason: str | None = None
    """Finish reason of a row."""
    num_prompt_tokens: int = 0
    num_new_tokens: int = 0


class Worker(Protocol):
    """**Protocol:** answers lines. `LocalWorker` is one.

    One thread calls all methods.
    """

    @property
    def identity(self) -> Mapping[str, Any]:
        """JSON values that the answers depend on besides the lines, by name.

        Known before `open`. A job that was begun with another identity is not resumed.
        """

    @property
    def capacity(self) -> int:
        """Most lines that may be under way; known after `open`."""

    def open(self) -> None:
        """Load what answers. Called once, and only if lines are left."""

    def submit(self, line: Line) -> None:
        """Begin a line and return; a refused line has an answer too.

        Raises:
            QueueFullError: Submit it again when some lines have ended.
            EngineError: Nothing can be answered any more.
        """

    def answers(self, timeout_s: float | None) -> Sequence[Answer]:
        """Return the answers of lines that have ended since the last call.

        Args:
            timeout_s: Seconds to wait for the first one; `None` waits for it.

        Raises:
            EngineError: Nothing can be answered any more.
        """

    def stats(self) -> Mapping[str, Any]:
        """Return ``slots`` and ``running`` of the engine, where they are known."""

    def close(self) -> None:
        """Cancel what is under way and free everything. May be called twice."""
