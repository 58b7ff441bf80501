# SPDX-License-Identifier: Apache-2.0

"""The commands, and the options before them."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

import unillm

from . import bench, cache, env, options
from .backends import backends
from .batch import batch
from .build import build
from .chat import chat
from .compare import compare
from .conformance import conformance
from .doctor import doctor
from .exit_codes import ExitCode
from .generate import generate
from .inspect import inspect
from .models import models
from .new_backend import new_backend
from .plan import plan
from .serve import serve

_EXIT_CODES = "; ".join(f"{code:d} {code.meaning}" for code in ExitCode)

app = typer.Typer(
    name="unillm",
    help="One Generator over every LLM inference engine.",
    epilog=f"Exit codes: {_EXIT_CODES}.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(generate)
app.command()(chat)
app.command()(batch)
app.command()(serve)
app.command()(backends)
app.command()(models)
app.command()(inspect)
app.command()(conformance)
app.command("new-backend")(new_backend)
app.command()(plan)
app.command()(build)
app.command()(compare)
app.command()(doctor)
app.add_typer(bench.app)
app.add_typer(cache.app)
app.add_typer(env.app)


def _show_version(wanted: bool) -> None:
    if not wanted:
        return
    try:
        version = unillm.__version__
    except ModuleNotFoundError:  # of the distribution
        version = "(a source tree that is not installed)"
    typer.echo(f"unillm {version}")
    raise typer.Exit


@app.callback()
def _before_command(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_show_version,
            is_eager=True,
            help="Show the version and exit.",
        ),
    ] = False,
    debug: options.Debug = False,
) -> None:
    del version, debug  # `_show_version` and `reporting.reported` read them


def run(args: Sequence[str] | None) -> NoReturn:
    """Run the command line on *args* and exit."""
    # transformers warns about its own generate(), which no backend here calls.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    for stream in (sys.stdout, sys.stderr):
        # A terminal of another encoding shows an escape for a missing character.
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    # At the end of Python, the collector would look at all modules of torch again and
    # again, which takes a second.
    atexit.register(gc.freeze)
    app(None if args is None else list(args), prog_name="unillm")
    raise AssertionError("typer ends the process")
