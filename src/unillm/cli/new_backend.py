# SPDX-License-Identifier: Apache-2.0

"""``unillm new-backend``: the distribution of a new backend."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from .commands import command


class _Kind(str, enum.Enum):
    """The contract that the engine implements."""

    ENGINE = "engine"
    SLOTS = "slots"
    BATCH = "batch"


@command
def new_backend(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name of the backend: my-engine.")
    ],
    *,
    kind: Annotated[
        _Kind,
        typer.Option(
            "--kind",
            "-k",
            help="The engine has rows that are filled one by one (slots), only knows "
            "generate(batch) (batch), or schedules its requests itself (engine).",
        ),
    ] = _Kind.SLOTS,
    folder: Annotated[
        Path,
        typer.Option("--folder", "-o", help="Where the folder unillm-NAME is made."),
    ] = Path(),
) -> None:
    """Write the distribution of a new backend: engine, entry point, tests, CI.

    It computes the bundled model in numpy until your engine takes its place, and so
    passes the contract from the start.
    """
    from ..testing.scaffold import write_backend

    for path in write_backend(name, kind.value, folder):
        typer.echo(path)
    typer.echo(
        f"\nNext:\n  pip install -e '{folder / f'unillm-{name}'}[test]'\n"
        f"  unillm conformance {name}\n"
        f"  unillm conformance {name} --random 1000"
    )
