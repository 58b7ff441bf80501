# SPDX-License-Identifier: Apache-2.0

"""The exit codes of the command line, and the code of each error."""

from __future__ import annotations

import enum

from typing_extensions import Self

from .. import errors


class ExitCode(enum.IntEnum):
    """Exit code of `unillm`; the help and the reference page show `meaning`."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> Self:
        """Set the value and its meaning."""
        member = int.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    OK = 0, "all went well"
    REQUESTS_FAILED = (
        1,
        "a prompt failed, a prepared engine is damaged, an assumption does not hold",
    )
    USAGE = 2, "a wrong option or value"
    MODEL = 3, "the model cannot be found, read or served"
    BACKEND = 4, "the backend is unknown or cannot run here"
    ENGINE = 5, "the engine cannot be built, does not fit, died or ran out of memory"
    DISAGREE = 6, "the two sides of a comparison disagree"
    NONCONFORMING = 7, "the backend does not hold the contract"
    STORAGE = 8, "a disk is full or failed, or a job is damaged"
    INVALID = 9, "a figure of a benchmark cannot be true"
    BUG = 70, "a bug in unillm"
    INTERRUPTED = 130, "interrupted by Ctrl-C"
    BROKEN_PIPE = 141, "the reader of the output went away"
    TERMINATED = 143, "ended by SIGTERM"


_OF_ERRORS: dict[type[Exception], ExitCode] = {
    errors.ConfigError: ExitCode.USAGE,
    errors.InvalidParameterError: ExitCode.USAGE,
    errors.RequestError: ExitCode.REQUESTS_FAILED,
    errors.BatchStorageError: ExitCode.STORAGE,
    errors.BatchError: ExitCode.USAGE,
    errors.ModelError: ExitCode.MODEL,
    errors.BackendError: ExitCode.BACKEND,
    errors.EngineError: ExitCode.ENGINE,
    errors.GeneratorClosedError: ExitCode.ENGINE,
    errors.GeneratorForkedError: ExitCode.ENGINE,
    errors.SideFailedError: ExitCode.ENGINE,
}
"""The first class of which an error is an instance decides."""


def exit_code_of(error: Exception) -> ExitCode:
    """Return the exit code for *error*.

    The error of a comparison's side counts as its kind in that process.
    """
    kind = getattr(errors, getattr(error, "kind", ""), type(error))
    codes = (code for known, code in _OF_ERRORS.items() if issubclass(kind, known))
    return next(codes, ExitCode.BUG)
