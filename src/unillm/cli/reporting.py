# SPDX-License-Identifier: Apache-2.0

"""Messages on standard error, and the end of a command.

A known error is one readable message and an exit code, without a traceback. ``--debug``
adds the traceback and the log.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import shutil
import sys
import textwrap
import traceback
import warnings
from collections.abc import Iterator
from typing import Any, TextIO

import typer

from .. import errors
from .exit_codes import ExitCode, exit_code_of

SAID = "unillm.said"
"""Key of a context's `meta`: a warning that the command line has shown already."""


def _say(kind: str, colour: str, message: str) -> None:
    """Write ``kind: message`` to standard error, if that is open."""
    with contextlib.suppress(OSError, ValueError):
        head = typer.style(f"{kind}:", fg=colour, bold=True)
        typer.echo(f"{head} {message}", err=True)


def note(message: str) -> None:
    """Write a note to standard error; on a terminal, wrapped at words."""
    if is_terminal(sys.stderr):
        head = len("note: ")
        width = max(head + 1, shutil.get_terminal_size().columns)
        # Not the words of `say_error`: its commands are copied as one line.
        wrapped = textwrap.wrap(
            message, width - head, break_long_words=False, break_on_hyphens=False
        )
        message = f"\n{' ' * head}".join(wrapped)
    _say("note", "cyan", message)


say_warning = functools.partial(_say, "warning", "yellow")
say_error = functools.partial(_say, "error", "red")


def is_terminal(stream: TextIO) -> bool:
    """Whether *stream* is a terminal; a closed stream is not."""
    try:
        return stream.isatty()
    except (AttributeError, ValueError):
        return False


@contextlib.contextmanager
def reported(context: typer.Context, *, debug: bool) -> Iterator[None]:
    """Run the body of a command; an exception becomes a message and an exit code.

    Args:
        context: The command's context; its root has the ``--debug`` before the command.
        debug: Whether ``--debug`` stands after the command.

    Raises:
        typer.Exit: The body raised an exception.
    """
    debug = debug or bool(context.find_root().params.get("debug"))
    with _shown_log(debug=debug, said=context.meta.get(SAID)):
        try:
            yield
            sys.stdout.flush()
        except typer.Exit:
            raise
        except KeyboardInterrupt:
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        except BrokenPipeError:
            _discard_output()
            raise typer.Exit(ExitCode.BROKEN_PIPE) from None
        except Exception as error:
            if debug:
                traceback.print_exc()
            say_error(_message(error, debug=debug))
            raise typer.Exit(exit_code_of(error)) from error


def _message(error: Exception, *, debug: bool) -> str:
    if isinstance(error, errors.UnillmError):
        return str(error)
    advice = "" if debug else " Run it again with --debug and report what it shows."
    return f"{type(error).__name__}: {error} (this is a bug in unillm.{advice})"


@contextlib.contextmanager
def _shown_log(*, debug: bool, said: str | None) -> Iterator[None]:
    """Show the whole log for *debug*; else short warnings and the log of builds.

    Args:
        debug: Whether everything is shown.
        said: A warning that is not shown again.
    """

    def show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
        if str(message) != said:
            say_warning(str(message))  # without its place in the code

    log = logging.getLogger("unillm" if debug else "unillm.artifacts")
    handler = logging.StreamHandler(sys.stderr) if debug else _Notes()
    handler.setFormatter(logging.Formatter("%(name)s %(levelname)s: %(message)s"))
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.DEBUG if debug else logging.INFO)
    try:
        with warnings.catch_warnings():
            if not debug:
                warnings.showwarning = show_warning
            yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before)


class _Notes(logging.Handler):
    """Shows the log of a build, which may take minutes."""

    def emit(self, record: logging.LogRecord) -> None:
        show = say_warning if record.levelno >= logging.WARNING else note
        show(record.getMessage())


def _discard_output() -> None:
    """Point standard output at the null device, for the interpreter's last flush."""
    with contextlib.suppress(OSError, ValueError):  # a test's stream has no number
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
