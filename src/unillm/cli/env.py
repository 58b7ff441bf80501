# SPDX-License-Identifier: Apache-2.0

"""``unillm env``: interpreters whose engines this one does not have."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ConfigError, UnillmError
from . import options
from .commands import command
from .exit_codes import ExitCode
from .reporting import note, say_error
from .writing import write_json

if TYPE_CHECKING:
    from ..settings import Environment

app = typer.Typer(
    name="env",
    help="Add and check environments: interpreters with other engines.",
    no_args_is_help=True,
)


@app.command()
@command
def add(
    name: Annotated[str, typer.Argument(help="Name of the environment.")],
    python: Annotated[
        str, typer.Argument(help="Its interpreter, or its directory.", metavar="PYTHON")
    ],
) -> None:
    """Add an environment, so that its backends are found by name."""
    from ..process import environments
    from ..process.child import interpreter

    path = interpreter(python)
    path = str(Path.cwd() / path) if os.sep in path else path
    environment = _checked(path)
    environments.save(name, environment)
    note(f"{name}: {path} has {', '.join(environment.backends) or 'no backend'}")


@app.command("list")
@command
def show_list(*, as_json: options.AsJson = False) -> None:
    """Show each environment and the backends that it had when it was checked."""
    from ..process.environments import environments

    found = environments()
    if as_json:
        write_json(
            [
                {"name": name, "python": each.python, "backends": each.backends}
                for name, each in sorted(found.items())
            ]
        )
    elif found:
        _write_table(found)
    else:
        note("No environment has been added yet.")


@app.command()
@command
def check(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Environments; all without any.", show_default=False),
    ] = None,
    *,
    as_json: options.AsJson = False,
) -> None:
    """Start each interpreter and ask it for its backends."""
    from ..process import environments

    known = environments.environments()
    if unknown := [name for name in names or () if name not in known]:
        raise ConfigError(f"No environment is called {unknown[0]!r}.")
    found: list[dict[str, Any]] = []
    for name in names or sorted(known):
        python, problem = known[name].python, None
        backends = known[name].backends
        try:
            environment = _checked(python)
        except UnillmError as error:
            problem = str(error)
        else:
            environments.save(name, environment)
            backends = environment.backends
        found.append(
            {"name": name, "python": python, "backends": backends, "problem": problem}
        )
        if not as_json:
            typer.echo(f"{name}: {problem or ', '.join(backends) or 'no backend'}")
    if as_json:
        write_json(found)
    if broken := sum(each["problem"] is not None for each in found):
        say_error(f"{broken} of {len(found)} environments cannot be used.")
        raise typer.Exit(ExitCode.REQUESTS_FAILED)


@app.command()
@command
def remove(
    name: Annotated[str, typer.Argument(help="Name of the environment.")],
) -> None:
    """Forget an environment; nothing of it is deleted."""
    from ..process import environments

    environments.remove(name)


def _checked(python: str) -> Environment:
    """Return an environment with the backends that can run in it.

    Raises:
        BackendUnavailableError: The interpreter cannot be run or has no unillm.
    """
    from ..process.backend import list_backends
    from ..settings import Environment

    found = tuple(each.name for each in list_backends(python) if each.available)
    return Environment(python=python, backends=found)


def _write_table(found: Any) -> None:
    from .tables import column_table, print_table

    table = column_table("name", "python", "backends")
    for name, each in sorted(found.items()):
        table.add_row(name, each.python, ", ".join(each.backends) or "–")
    print_table(table)
