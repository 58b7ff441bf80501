# SPDX-License-Identifier: Apache-2.0

"""``unillm build``: prepare an engine before a generator needs it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ..byte_text import size
from ..phase_bars import shown_phases
from . import options
from .commands import command
from .reporting import is_terminal, note
from .writing import write_json

if TYPE_CHECKING:
    from ..artifacts.progress import BuildStatus


@command
def build(
    model: options.ModelArgument,
    *,
    as_json: options.AsJson = False,
    engine: Annotated[options.Engine, options.Without("tokenizer", "python")],
) -> None:
    """Convert or compile a model for a backend, if needed, and print the folder."""
    from ..artifacts.progress import duration, report_changes
    from ..preparation import prepare_engine

    built = False
    show = None if is_terminal(sys.stderr) else report_changes(note)

    def listen(status: BuildStatus) -> None:
        nonlocal built
        built |= status.stage == "building"
        if show is not None:  # a terminal shows bars
            show(status)

    with shown_phases():
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
