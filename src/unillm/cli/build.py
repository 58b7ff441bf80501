# SPDX-License-Identifier: Apache-2.0

"""``unillm build``: prepare an engine before a generator needs it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from . import options
from .commands import command
from .reporting import is_terminal, note
from .sizes import size
from .writing import write_json

if TYPE_CHECKING:
    from ..artifacts.progress import BuildStatus, Listener


@command
def build(
    model: options.ModelArgument,
    *,
    as_json: options.AsJson = False,
    engine: Annotated[options.Building, options.Without("tokenizer", "python")],
) -> None:
    """Convert or compile a model for a backend, if needed, and print the folder."""
    from ..artifacts.progress import duration
    from ..preparation import prepare_engine

    built = False
    with _shown() as show:

        def listen(status: BuildStatus) -> None:
            nonlocal built
            built |= status.stage == "building"
            show(status)

        artifact = prepare_engine(model, listener=listen, **engine)
    if artifact is None:
        note("This backend loads the model as it is: there is nothing to build.")
        if as_json:
            write_json(None)
        return
    with artifact:
        manifest = artifact.manifest
        if as_json:
            write_json(
                {
                    "built": built,
                    "key": artifact.spec.key,
                    "path": artifact.path,
                    "total_bytes": manifest.total_bytes,
                    "build_seconds": manifest.build_seconds,
                    "spec": artifact.spec,
                }
            )
            return
        took = f"{duration(manifest.build_seconds)}, {size(manifest.total_bytes)}"
        note(f"Built in {took}." if built else f"It was there ({took} to build).")
        typer.echo(str(artifact.path))


@contextlib.contextmanager
def _shown() -> Iterator[Listener]:
    """Return a listener that draws a bar on a terminal and writes lines elsewhere."""
    if not is_terminal(sys.stderr):
        from ..artifacts.progress import report_changes

        yield report_changes(note)
        return
    from rich import progress
    from rich.console import Console

    with progress.Progress(
        progress.SpinnerColumn(),
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as bar:
        task = bar.add_task("Looking for an engine", total=None)

        def draw(status: BuildStatus) -> None:
            bar.update(
                task,
                description=str(status),
                total=None if status.fraction is None else 1,
                completed=status.fraction or 0,
            )

        yield draw
