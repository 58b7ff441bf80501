# SPDX-License-Identifier: Apache-2.0

"""What a person is told on standard error, and how a command ends.

A known error is one readable message and an exit code, never a traceback. ``--debug``
adds the traceback and the log.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from typing import Any, TextIO

import typer

from .. import errors
from .exit_codes import ExitCode, exit_code_of


def say(kind: str, message: str, *, colour: str = "yellow") -> None:
    """Write ``kind: message`` to standard error; a closed one is not worth an error."""
    with contextlib.suppress(OSError, ValueError):
        head = typer.style(f"{kind}:", fg=colour, bold=True)
        typer.echo(f"{head} {message}", err=True)


def note(message: str) -> None:
    """Tell something that is good to know and changes nothing."""
    say("note", message, colour="cyan")


def say_error(message: str) -> None:
    """Tell what went wrong."""
    say("error", message, colour="red")


def is_terminal(stream: TextIO) -> bool:
    """Whether a person reads *stream*; a closed one is read by nobody."""
    try:
        return stream.isatty()
    except (AttributeError, ValueError):
        return False


@contextlib.contextmanager
def reported(context: typer.Context, *, debug: bool) -> Iterator[None]:
    """Run a command's body: whatever ends it becomes a message and an exit code.

    Args:
        context: Of the command; its root knows whether ``--debug`` came before it.
        debug: Whether ``--debug`` came after the command.

    Raises:
        typer.Exit: With the code, for every exception but a normal end.
    """
    debug = debug or bool(context.find_root().params.get("debug"))
    with _shown_log() if debug else _short_messages():
        try:
            yield
            sys.stdout.flush()
        except typer.Exit:
            raise
        except KeyboardInterrupt:
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        except BrokenPipeError:
            _leave_quietly()
            raise typer.Exit(ExitCode.BROKEN_PIPE) from None
        except Exception as error:
            if debug:
                traceback.print_exc()
            _tell(error, debug=debug)
            raise typer.Exit(exit_code_of(error)) from error


def _tell(error: Exception, *, debug: bool) -> None:
    if isinstance(error, errors.UnillmError):
        say_error(str(error))
        return
    advice = "" if debug else " Run it again with --debug and report what it shows."
    say_error(f"{type(error).__name__}: {error} (this is a bug in unillm.{advice})")


@contextlib.contextmanager
def _short_messages() -> Iterator[None]:
    """Show a warning as one line, without the place in the code, and long waits."""
    with (
        warnings.catch_warnings(),
        _logging(_Notes(), "unillm.artifacts", logging.INFO),
    ):
        warnings.showwarning = _show_warning
        yield


class _Notes(logging.Handler):
    """Shows what is logged while an engine is prepared, which may take minutes."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            say("warning", record.getMessage())
        else:
            note(record.getMessage())


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    say("warning", str(message))


@contextlib.contextmanager
def _shown_log() -> Iterator[None]:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(name)s %(levelname)s: %(message)s"))
    with _logging(handler, "unillm", logging.DEBUG):
        yield


@contextlib.contextmanager
def _logging(handler: logging.Handler, name: str, level: int) -> Iterator[None]:
    log = logging.getLogger(name)
    before = log.level
    log.addHandler(handler)
    log.setLevel(level)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before)


def _leave_quietly() -> None:
    """Let the interpreter flush into nothing when it ends, instead of complaining."""
    with contextlib.suppress(OSError, ValueError):  # a test's stream has no number
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
