# SPDX-License-Identifier: Apache-2.0

"""`job_status`: how far a job is, by its journal alone."""

from __future__ import annotations

from pathlib import Path

import attrs

from ..errors import BatchInputError
from .folder import JobFolder
from .journal import INDEX, entries


@attrs.frozen(kw_only=True)
class JobStatus:
    """How far a job is."""

    num_lines: int
    """Lines of the input."""
    num_done: int
    """Lines that are finished and on the disk."""
    num_failed: int
    """Those of them that failed."""
    finished: bool
    """Whether the output is there."""
    created: int
    """Seconds since the epoch at which the job began."""
    running: str | None
    """The process that works at it now."""


def job_status(output: Path) -> JobStatus:
    """Return how far the job of an output is.

    Raises:
        BatchInputError: There is no job.
        BatchStorageError: Its record is damaged.
    """
    folder = JobFolder(output)
    record = folder.read()
    if record is None:
        raise BatchInputError(f"{output} has no job: {folder.path} has no record.")
    done, failed = record.num_lines, record.num_failed
    if not record.finished:
        done = failed = 0
        if (folder.path / INDEX).exists():
            for entry in entries(folder.path):
                done += 1
                failed += entry.failed
    owner = folder.owner()
    return JobStatus(
        num_lines=record.num_lines,
        num_done=done,
        num_failed=failed,
        finished=record.finished,
        created=record.created,
        running=None if owner is None else str(owner),
    )
