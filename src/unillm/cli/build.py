# SPDX-License-Identifier: Apache-2.0

"""``unillm build``: prepare an engine before it is needed."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import attrs
import typer

from . import options
from .reporting import is_terminal, note, reported
from .sizes import size
from .writing import write_json

if TYPE_CHECKING:
    from ..artifacts.progress import BuildStatus, Listener
    from ..artifacts.store import Artifact


def build(
    context: typer.Context,
    model: Annotated[
        str, typer.Argument(help="Directory, hub id, or the bundled unillm/tiny.")
    ],
    *,
    as_json: options.AsJson = False,
    backend: options.Backend = None,
    dtype: options.Dtype = "auto",
    quantization: options.Quantization = None,
    max_model_len: options.MaxModelLen = None,
    max_num_seqs: options.MaxNumSeqs = None,
    max_num_batched_tokens: options.MaxNumBatchedTokens = None,
    tensor_parallel_size: options.TensorParallelSize = None,
    trust_remote_code: options.TrustRemoteCode = False,
    option: options.BackendOption = None,
    debug: options.Debug = False,
) -> None:
    """Convert or compile a model for a backend, unless that was done; print where."""
    with reported(context, debug=debug):
        from ..preparation import prepare_engine

        backend_options = options.parse_key_values(option or [])
        with _shown() as shown:
            artifact = prepare_engine(
                model,
                backend=backend,
                listener=shown.listen,
                dtype=dtype,
                quantization=quantization,
                max_model_len=max_model_len,
                max_num_seqs=max_num_seqs,
                max_num_batched_tokens=max_num_batched_tokens,
                tensor_parallel_size=tensor_parallel_size,
                trust_remote_code=trust_remote_code,
                backend_options=backend_options,
            )
        if artifact is None:
            note("This backend loads the model as it is: there is nothing to build.")
            if as_json:
                write_json(None)
            return
        with artifact:
            _tell(artifact, built=shown.built, as_json=as_json)


@attrs.define(eq=False)
class _Shown:
    """Passes on what happens, and remembers whether something was built."""

    tell: Listener
    built: bool = False

    def listen(self, status: BuildStatus) -> None:
        self.built |= status.stage == "building"
        self.tell(status)


@contextlib.contextmanager
def _shown() -> Iterator[_Shown]:
    """Show a bar to a person, and lines to a file."""
    if not is_terminal(sys.stderr):
        from ..artifacts.progress import report_changes

        yield _Shown(report_changes(note))
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

        def tell(status: BuildStatus) -> None:
            bar.update(
                task,
                description=str(status),
                total=None if status.fraction is None else 1,
                completed=status.fraction or 0,
            )

        yield _Shown(tell)


def _tell(artifact: Artifact, *, built: bool, as_json: bool) -> None:
    from ..artifacts.progress import duration
    from ..artifacts.records import to_json

    manifest = artifact.manifest
    took = f"{duration(manifest.build_seconds)}, {size(manifest.total_bytes)}"
    if as_json:
        write_json(
            {
                "built": built,
                "key": artifact.spec.key,
                "path": str(artifact.path),
                "total_bytes": manifest.total_bytes,
                "build_seconds": manifest.build_seconds,
                "spec": to_json(artifact.spec),
            }
        )
        return
    note(f"Built in {took}." if built else f"It was there ({took} to build).")
    typer.echo(str(artifact.path))
