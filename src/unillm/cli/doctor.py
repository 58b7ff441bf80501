# SPDX-License-Identifier: Apache-2.0

"""``unillm doctor``: this environment, and on request a backend's contract in it."""

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
    from ..testing.conformance import ClauseResult, Conformance

_HELD = {True: "held", False: "FAILED", None: "new"}


@command
def doctor(
    model: options.ModelArgument = "unillm/tiny",
    *,
    contract: Annotated[
        bool,
        typer.Option(
            "--contract",
            help="Also check the backend's assumptions about its engine, with MODEL, "
            "and the contract's clauses, with the bundled model, whose answers are "
            "known. Needs the extra \\[testing].",
        ),
    ] = False,
    as_json: options.AsJson = False,
    engine: options.Engine,
) -> None:
    """Report this environment for a bug report: versions, devices, backends, disk.

    Values of variables that sound like a secret are not shown.
    """
    from .machine import facts

    if contract:
        from ..testing.conformance import need_pytest

        need_pytest()
    report: dict[str, Any] = dict(facts())
    if not as_json:
        _write(report)
    if not contract:
        if as_json:
            write_json(report)
        return
    findings, result = _check(model, engine, show=not as_json)
    if as_json:
        write_json({**report, "findings": findings, "contract": as_data(result)})
    if any(finding.held is False for finding in findings):
        raise typer.Exit(ExitCode.REQUESTS_FAILED)
    if not result.conforms:
        raise typer.Exit(ExitCode.NONCONFORMING)


def _write(report: dict[str, dict[str, str]]) -> None:
    from .tables import pairs_table, print_table

    for title, rows in report.items():
        typer.echo(typer.style(title, bold=True))
        print_table(pairs_table(*((f"  {each}", rows[each]) for each in rows)))
        typer.echo()


def _check(
    model: str, engine: options.Engine, *, show: bool
) -> tuple[list[Finding], Conformance]:
    """Check the assumptions of a backend, and the core of the contract."""
    from ..resolve import resolve
    from ..testing.conformance import run_contract

    resolved = resolve(model, **engine)
    findings = []
    for finding in resolved.backend.examine(resolved.config):
        findings.append(finding)
        if show:
            _show_finding(finding)
    result = run_contract(
        resolved.backend.name,
        options=_for_the_contract(engine),
        core=True,
        on_result=_show_clause if show else None,
    )
    return findings, result


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
