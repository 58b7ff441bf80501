# SPDX-License-Identifier: Apache-2.0

"""What the command line's exit status says, and which error has which."""

from __future__ import annotations

import enum

from typing_extensions import Self

from .. import errors


class ExitCode(enum.IntEnum):
    """Exit status of `unillm`. `meaning` is what the help says about it."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> Self:
        """Take the status and its meaning."""
        member = int.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    OK = 0, "all went well"
    REQUESTS_FAILED = 1, "a prompt failed; the others were answered"
    USAGE = 2, "a wrong option or value"
    MODEL = 3, "the model cannot be found, read or served"
    BACKEND = 4, "the backend is unknown or cannot run here"
    ENGINE = 5, "the engine died or ran out of memory"
    NONCONFORMING = 6, "the backend does not hold the contract"
    BUG = 70, "a bug in unillm"
    INTERRUPTED = 130, "interrupted by Ctrl-C"
    BROKEN_PIPE = 141, "the reader of the output went away"


_OF_ERRORS: tuple[tuple[type[Exception], ExitCode], ...] = (
    (errors.ConfigError, ExitCode.USAGE),
    (errors.InvalidParameterError, ExitCode.USAGE),
    (errors.RequestError, ExitCode.REQUESTS_FAILED),
    (errors.ModelError, ExitCode.MODEL),
    (errors.BackendError, ExitCode.BACKEND),
    (errors.EngineError, ExitCode.ENGINE),
    (errors.GeneratorClosedError, ExitCode.ENGINE),
)
"""The first class that an error is of decides."""


def exit_code_of(error: Exception) -> ExitCode:
    """Return the status that *error* ends the process with."""
    for kind, code in _OF_ERRORS:
        if isinstance(error, kind):
            return code
    return ExitCode.BUG
