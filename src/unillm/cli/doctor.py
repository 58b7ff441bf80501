# SPDX-License-Identifier: Apache-2.0

"""``unillm doctor``: assumptions and contract of a backend, checked where it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options
from .commands import command
from .conformance import as_data
from .exit_codes import ExitCode
from .writing import write_json

if TYPE_CHECKING:
    from ..backend import Finding
    from ..testing.conformance import ClauseResult

_HELD = {True: "held", False: "FAILED", None: "new"}


@command
def doctor(
    model: options.ModelArgument = "unillm/tiny",
    *,
    as_json: options.AsJson = False,
    engine: Annotated[
        options.Engine, options.Without("tokenizer", "max_num_batched_tokens")
    ],
) -> None:
    """Check the assumptions of a backend, and the contract on its engine.

    The assumptions are checked with MODEL. The clauses are checked with the bundled
    model, whose answers are known. Needs the extra [testing].
    """
    from ..resolve import resolve
    from ..testing.conformance import need_pytest, run_contract

    need_pytest()
    resolved = resolve(model, **engine)
    findings = []
    for finding in resolved.backend.examine(resolved.config):
        findings.append(finding)
        if not as_json:
            _show_finding(finding)
    contract = run_contract(
        resolved.backend.name,
        options=_for_the_contract(engine),
        core=True,
        on_result=None if as_json else _show_clause,
    )
    if as_json:
        write_json({"findings": findings, "contract": as_data(contract)})
    if any(finding.held is False for finding in findings):
        raise typer.Exit(ExitCode.REQUESTS_FAILED)
    if not contract.conforms:
        raise typer.Exit(ExitCode.NONCONFORMING)


def _for_the_contract(given: options.Engine) -> dict[str, Any]:
    """Return the given options that concern the engine, whatever its model."""
    names = ("python", "dtype", "max_num_seqs", "backend_options")
    return {
        name: value
        for name, value in given.items()
        if name in names and value != "auto"
    }


def _show_finding(finding: Finding) -> None:
    _show(_HELD[finding.held], finding.assumption)
    _show("", f"{finding.detail}  [{finding.source}]")


def _show_clause(result: ClauseResult) -> None:
    outcome = result.outcome.value
    outcome = {"passed": _HELD[True], "failed": _HELD[False]}.get(outcome, outcome)
    _show(outcome, f"{result.number}: {result.statement}")
    if result.detail:
        _show("", result.detail.splitlines()[0])


def _show(outcome: str, text: str) -> None:
    typer.echo(f"{outcome:>12}  {text}")
