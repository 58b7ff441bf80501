# SPDX-License-Identifier: Apache-2.0

"""``unillm doctor``: what a backend relies on, checked where it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import attrs
import typer

from . import options
from .exit_codes import ExitCode
from .reporting import note, reported
from .writing import write_json

if TYPE_CHECKING:
    from ..engines.backend import Finding

_VERDICTS = {True: "held", False: "FAILED", None: "new"}


def doctor(
    context: typer.Context,
    model: Annotated[
        str, typer.Argument(help="Directory, hub id, or the bundled unillm/tiny.")
    ] = "unillm/tiny",
    *,
    as_json: options.AsJson = False,
    backend: options.Backend = None,
    dtype: options.Dtype = "auto",
    max_model_len: options.MaxModelLen = None,
    max_num_seqs: options.MaxNumSeqs = None,
    trust_remote_code: options.TrustRemoteCode = False,
    option: options.BackendOption = None,
    debug: options.Debug = False,
) -> None:
    """Load a model and check what the backend assumes of its engine."""
    with reported(context, debug=debug):
        from ..preparation import examine_engine

        findings = []
        for finding in examine_engine(
            model,
            backend=backend,
            dtype=dtype,
            max_model_len=max_model_len,
            max_num_seqs=max_num_seqs,
            trust_remote_code=trust_remote_code,
            backend_options=options.parse_key_values(option or []),
        ):
            findings.append(finding)
            if not as_json:
                _show(finding)
        if as_json:
            write_json([attrs.asdict(finding) for finding in findings])
        elif not findings:
            note("This backend assumes nothing that its own tests do not run.")
        if any(finding.held is False for finding in findings):
            raise typer.Exit(ExitCode.REQUESTS_FAILED)


def _show(finding: Finding) -> None:
    typer.echo(f"{_VERDICTS[finding.held]:>6}  {finding.assumption}")
    typer.echo(f"        {finding.detail}  [{finding.source}]")
