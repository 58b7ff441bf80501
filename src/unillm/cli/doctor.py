# SPDX-License-Identifier: Apache-2.0

"""``unillm doctor``: what a backend relies on and promises, checked where it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import attrs
import typer

from . import options
from .conformance import as_data
from .exit_codes import ExitCode
from .reporting import reported
from .writing import write_json

if TYPE_CHECKING:
    from ..config import EngineConfig
    from ..engines.backend import Finding
    from ..testing.conformance import ClauseResult

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
    """Check what a backend assumes of its engine, and the contract on the engine.

    The assumptions are checked with MODEL, the clauses with the bundled model, whose
    answers are known. Needs the extra unillm[testing].
    """
    with reported(context, debug=debug):
        from ..resolve import resolve
        from ..testing.conformance import need_pytest, run_contract

        need_pytest()
        found = resolve(
            model,
            backend,
            dtype=dtype,
            max_model_len=max_model_len,
            max_num_seqs=max_num_seqs,
            trust_remote_code=trust_remote_code,
            backend_options=options.parse_key_values(option or []),
        )
        findings = []
        for finding in found.backend.examine(found.config):
            findings.append(finding)
            if not as_json:
                _show_finding(finding)
        contract = run_contract(
            found.backend.name,
            options=_for_the_contract(found.config),
            core=True,
            on_result=None if as_json else _show_clause,
        )
        if as_json:
            told = [attrs.asdict(finding) for finding in findings]
            write_json({"findings": told, "contract": as_data(contract)})
        if any(finding.held is False for finding in findings):
            raise typer.Exit(ExitCode.REQUESTS_FAILED)
        if not contract.conforms:
            raise typer.Exit(ExitCode.NONCONFORMING)


def _for_the_contract(config: EngineConfig) -> dict[str, Any]:
    """Return what was given that is not about the model alone."""
    given: dict[str, Any] = {"backend_options": dict(config.backend_options)}
    if config.dtype != "auto":
        given["dtype"] = config.dtype
    if config.max_num_seqs is not None:
        given["max_num_seqs"] = config.max_num_seqs
    return given


def _show_finding(finding: Finding) -> None:
    _show(_VERDICTS[finding.held], finding.assumption)
    _show("", f"{finding.detail}  [{finding.source}]")


def _show_clause(result: ClauseResult) -> None:
    from ..testing.conformance import Outcome

    verdicts = {Outcome.PASSED: _VERDICTS[True], Outcome.FAILED: _VERDICTS[False]}
    verdict = verdicts.get(result.outcome, result.outcome.value)
    _show(verdict, f"{result.number}: {result.statement}")
    if result.detail:
        _show("", result.detail.splitlines()[0])


def _show(verdict: str, text: str) -> None:
    typer.echo(f"{verdict:>12}  {text}")
