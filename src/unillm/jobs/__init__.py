# SPDX-License-Identifier: Apache-2.0

"""Batch jobs: files of requests, answered on any engine, that survive any interruption.

`run_batch` reads files of requests, lets a `Worker` answer their lines, and writes one
line of output for each line of input. What a line holds is what ``unillm serve`` takes,
and its answer is what ``unillm serve`` answers.

A job keeps a journal beside its output, so the same call goes on where an earlier one
was interrupted. `LocalWorker` answers in this process. Another `Worker` may answer
elsewhere, for instance on several machines::

    class Remote:                       # a Worker
        identity = LocalWorker("some/model").identity
        def open(self): ...             # called once, and only if lines are left
        capacity = 4096                 # lines that may be under way
        def submit(self, line): ...     # hands `line` over and returns
        def answers(self, timeout_s): ...   # waits for some, returns those that ended
        def stats(self): ...            # "slots" and "running", for the progress bar
        def close(self): ...            # cancels what is under way

    run_batch("in.jsonl", "out.jsonl", Remote())

`Line` and `Answer` are plain values that can be pickled. On the other machine a
`LocalWorker` takes the same lines and returns the same answers. The job does everything
else: it reads and checks the files, counts, orders, resumes and writes.

Needs the extra ``[batch]``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .line import Answer as Answer
    from .line import Line as Line
    from .line import Worker as Worker
    from .report import BatchReport as BatchReport
    from .run import run_batch as run_batch
    from .worker import LocalWorker as LocalWorker

_WHERE = {
    "Answer": ".line",
    "BatchReport": ".report",
    "Line": ".line",
    "LocalWorker": ".worker",
    "Worker": ".line",
    "run_batch": ".run",
}

__all__ = [*_WHERE]  # noqa: PLE0604 - all are strings

if not TYPE_CHECKING:  # a type checker would accept every name

    def __getattr__(name: str) -> object:
        if name not in _WHERE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_WHERE[name], __name__), name)
        return value


def __dir__() -> list[str]:
    return __all__
